/** The report as one HTML page: no scripts, nothing loaded from elsewhere, readable by screen readers, on paper and in the dark. */
import * as format from './format'
import { htmlPage } from './html-page'
import { escapeHtml, ledgerTable, resultTable, swatch } from './html-tables'
import { bytesPlot, KLD_FLOOR, layerPlot, type PlotSize, paretoPlot, seriesOf } from './plots'
import type { CompositionReport, Report } from './schema'

/** Renders a report, partial ones included. */
export function renderHtml(report: Report): string {
  const title = `kvloom: KV-cache compression of ${report.model.name}`
  return htmlPage(
    title,
    `<header>
<h1>KV-cache compression of ${escapeHtml(report.model.name)}</h1>
<p class="soft">${escapeHtml(format.protocolSentence(report.protocol))}</p>
${banner(report)}
${facts(report)}
</header>
<section aria-labelledby="results"><h2 id="results">Results</h2>
<p class="soft">Everything is compared with an uncompressed f32 cache on the same tokens. Percentages beside perplexity are differences from it, factors beside times are of its time in the same rounds. ${escapeHtml(format.timingSentence(report, 'quartiles beside them'))}</p>
${resultTable(report)}
${notes(report)}
</section>
${figure(report, {
  id: 'pareto',
  title: 'Size against damage',
  plot: paretoPlot,
  caption: `Numbers are those of the table. Filled marks: bits per value really held, everything counted. Hollow marks: bits by formula. The dashed line joins the compositions that no other beats in both. Lower left is better. Divergences below ${KLD_FLOOR} are drawn there.`,
  withBaseline: false,
})}
${figure(report, {
  id: 'layers',
  title: 'Attention error by layer',
  plot: layerPlot,
  caption: `Difference of the attention output from the uncompressed run's, relative to its size, at ${report.protocol.attentionPositions} sampled positions. What earlier layers lost is part of it.`,
  withBaseline: false,
})}
${figure(report, {
  id: 'bytes',
  title: 'Bytes over tokens',
  plot: bytesPlot,
  caption: 'The ledger total after each step: packed codes, exact rows, metadata, unused room and state.',
  withBaseline: true,
})}
<section aria-labelledby="ledger"><h2 id="ledger">Byte ledger at the end of the text</h2>
${ledgerTable(report)}
</section>
<section aria-labelledby="details"><h2 id="details">Details</h2>
${report.compositions.map((row, i) => compositionDetails(row, i + 1)).join('\n')}
<details><summary>What the numbers mean</summary>${WORDS}</details>
<details><summary>Run, machine and versions</summary><pre>${escapeHtml(JSON.stringify({ startedAt: report.startedAt, finishedAt: report.finishedAt, seed: report.seed, protocol: report.protocol, text: report.text, model: report.model, machine: report.machine, versions: report.versions }, null, 2))}</pre></details>
</section>`,
  )
}

function banner(report: Report): string {
  const rows = [report.baseline, ...report.compositions]
  const done = rows.filter((r) => r.status === 'done').length
  if (report.status === 'interrupted')
    return `<p class="banner" role="status"><strong>Interrupted.</strong> ${done} of ${rows.length} runs were finished; this report holds those.${timesNote(report)}</p>`
  if (report.status === 'running')
    return `<p class="banner" role="status"><strong>Not finished.</strong> ${done} of ${rows.length} runs so far.</p>`
  if (report.status === 'failed')
    return `<p class="banner" role="status"><strong>The uncompressed run failed.</strong> ${escapeHtml(report.baseline.error?.message ?? '')}</p>`
  const failed = rows.filter((r) => r.status === 'failed').length
  return failed > 0
    ? `<p class="banner" role="status"><strong>${failed} of ${rows.length} runs failed.</strong> Their errors stand in the table.</p>`
    : ''
}

/** That the interruption came while times were taken. */
function timesNote({ protocol: { timing }, baseline }: Report): string {
  const counted = baseline.result?.times.decode?.count ?? 0
  return timing && counted < timing.rounds ? ' Times are missing, or of fewer rounds than asked for.' : ''
}

function facts(report: Report): string {
  const { model, machine, text, protocol } = report
  const entries: [string, string][] = [
    ['Model', `${model.layers} layers, ${model.queryHeads} query and ${model.kvHeads} KV heads of ${model.keyDim}`],
    ['Text', `${text.name}, ${text.tokens} tokens`],
    [
      'Passkey',
      protocol.passkeyTrials > 0 ? `${protocol.passkeyTrials} trials of ${protocol.passkeyTokens} tokens` : 'not run',
    ],
    ['Machine', `${machine.cpu}, ${machine.cores} cores, Node ${machine.node}, ${machine.backend}`],
    ['Date', report.startedAt.slice(0, 16).replace('T', ' ')],
    ['Seed', String(report.seed)],
  ]
  return `<dl class="facts">${entries.map(([term, value]) => `<div><dt>${term}</dt><dd>${escapeHtml(value)}</dd></div>`).join('')}</dl>`
}

function notes(report: Report): string {
  const rows = [report.baseline, ...report.compositions].filter((row) => row.notes.length > 0)
  if (rows.length === 0) return ''
  return `<ul>${rows.flatMap((row) => row.notes.map((note) => `<li><strong>${escapeHtml(row.name)}</strong>: ${escapeHtml(note)}</li>`)).join('')}</ul>`
}

interface Figure {
  readonly id: string
  readonly title: string
  readonly plot: (report: Report, size: PlotSize) => string
  readonly caption: string
  /** Whether the legend names the uncompressed run. */
  readonly withBaseline: boolean
}

/** A plot in both sizes, of which the style sheet shows one, with a legend of numbers, marks and names. */
function figure(report: Report, { id, title, plot, caption, withBaseline }: Figure): string {
  const [wide, narrow] = [plot(report, 'wide'), plot(report, 'narrow')]
  const drawn = wide
    ? `${legendOf(report, withBaseline)}<div class="wide">${wide}</div><div class="narrow">${narrow}</div>`
    : '<p class="soft">Nothing to draw yet.</p>'
  return `<section aria-labelledby="${id}"><h2 id="${id}">${title}</h2><figure>${drawn}<figcaption>${escapeHtml(caption)}</figcaption></figure></section>`
}

function legendOf(report: Report, withBaseline: boolean): string {
  const series = seriesOf(report).filter((s) => withBaseline || s.place > 0)
  return `<ul class="legend">${series.map((s) => `<li>${swatch(s.place)}${escapeHtml(s.name)}</li>`).join('')}</ul>`
}

function compositionDetails(row: CompositionReport, place: number): string {
  const data = {
    store: row.store,
    ownRows: row.ownRows,
    window: row.window,
    stages: row.stages,
    ...(row.error ? { error: row.error } : {}),
  }
  return `<details><summary>${swatch(place)}${escapeHtml(row.name)}</summary><pre>${escapeHtml(JSON.stringify(data, null, 2))}</pre></details>`
}

const WORDS = `<dl class="words">
<dt>bits by formula</dt><dd>Per key or value number and token seen: exact rows count 16 bits whatever they are held in, sealed rows what the method states. Under protocol E right after the compression of the prompt, under P and W at the end of the text.</dd>
<dt>bits held</dt><dd>Every byte the cache really holds at that moment, unused room and state included, times 8, over the numbers of all tokens seen. Tables that belong to the model, such as codebooks, are shared by all its caches; they stand apart in the ledger.</dd>
<dt>tokens kept</dt><dd>Rows attention still sees over tokens seen, mean over layers.</dd>
<dt>perplexity</dt><dd>exp of the mean negative log-likelihood of the scored tokens, in float64 from float32 logits.</dd>
<dt>KLD</dt><dd>KL(uncompressed || this) over the whole vocabulary, in nats: the mean and the 99 % quantile over positions.</dd>
<dt>top-1</dt><dd>Share of positions with the same most likely token as the uncompressed run.</dd>
<dt>passkey</dt><dd>A number hidden in a text, asked for after the text was compressed; a hit has every digit as the most likely token.</dd>
<dt>time</dt><dd>Of a prefill piece per token, of a decode step of one token, nothing scored. All rows, the uncompressed one included, open fresh caches and take every step in turn, the order rotated from round to round and every second time reversed; the first rounds warm up and do not count. Beside a median stand the quartiles; a factor is the median of the ratios to the uncompressed row's time in the same round.</dd>
</dl>`
