/** The report as one HTML page: no scripts, nothing loaded from elsewhere, readable by screen readers, on paper and in the dark. */
import * as format from './format'
import { STYLE } from './html-style'
import { escapeHtml, ledgerTable, resultTable, swatch } from './html-tables'
import { bytesPlot, KLD_FLOOR, layerPlot, paretoPlot, seriesOf } from './plots'
import type { CompositionReport, Report } from './schema'

/** Renders a report, partial ones included. */
export function renderHtml(report: Report): string {
  const title = `kvloom: KV-cache compression of ${report.model.name}`
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<header>
<h1>KV-cache compression of ${escapeHtml(report.model.name)}</h1>
<p class="soft">${escapeHtml(format.protocolSentence(report.protocol))}</p>
${banner(report)}
${facts(report)}
</header>
<section aria-labelledby="results"><h2 id="results">Results</h2>
<p class="soft">Everything is compared with an uncompressed f32 cache on the same tokens. Percentages beside perplexity and times are differences from it.</p>
${resultTable(report)}
${notes(report)}
</section>
${figure('pareto', 'Size against damage', paretoPlot(report), `Filled dots: bits per value really held, everything counted. Hollow dots: bits by formula. The dashed line joins the compositions that no other beats in both. Lower left is better. Divergences below ${KLD_FLOOR} are drawn there.`)}
${figure('layers', 'Attention error by layer', layerPlot(report), `Difference of the attention output from the uncompressed run's, relative to its size, at ${report.protocol.attentionPositions} sampled positions. What earlier layers lost is part of it.`, report, false)}
${figure('bytes', 'Bytes over tokens', bytesPlot(report), 'The ledger total after each step: packed codes, exact rows, metadata, unused room and state.', report, true)}
<section aria-labelledby="ledger"><h2 id="ledger">Byte ledger at the end of the text</h2>
${ledgerTable(report)}
</section>
<section aria-labelledby="details"><h2 id="details">Details</h2>
${report.compositions.map((row, i) => compositionDetails(row, i + 1)).join('\n')}
<details><summary>What the numbers mean</summary>${WORDS}</details>
<details><summary>Run, machine and versions</summary><pre>${escapeHtml(JSON.stringify({ startedAt: report.startedAt, finishedAt: report.finishedAt, seed: report.seed, protocol: report.protocol, text: report.text, model: report.model, machine: report.machine, versions: report.versions }, null, 2))}</pre></details>
</section>
</main>
</body>
</html>
`
}

function banner(report: Report): string {
  const rows = [report.baseline, ...report.compositions]
  const done = rows.filter((r) => r.status === 'done').length
  if (report.status === 'interrupted')
    return `<p class="banner" role="status"><strong>Interrupted.</strong> ${done} of ${rows.length} runs were finished; this report holds those.</p>`
  if (report.status === 'running')
    return `<p class="banner" role="status"><strong>Not finished.</strong> ${done} of ${rows.length} runs so far.</p>`
  if (report.status === 'failed')
    return `<p class="banner" role="status"><strong>The uncompressed run failed.</strong> ${escapeHtml(report.baseline.error?.message ?? '')}</p>`
  const failed = rows.filter((r) => r.status === 'failed').length
  return failed > 0
    ? `<p class="banner" role="status"><strong>${failed} of ${rows.length} runs failed.</strong> Their errors stand in the table.</p>`
    : ''
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
  const rows = report.compositions.filter((row) => row.notes.length > 0)
  if (rows.length === 0) return ''
  return `<ul>${rows.flatMap((row) => row.notes.map((note) => `<li><strong>${escapeHtml(row.name)}</strong>: ${escapeHtml(note)}</li>`)).join('')}</ul>`
}

/** @param report gives the legend; without it there is none. */
function figure(
  id: string,
  title: string,
  plot: string,
  caption: string,
  report?: Report,
  withBaseline = true,
): string {
  const drawn = plot || '<p class="soft">Nothing to draw yet.</p>'
  const legend = report && plot ? legendOf(report, withBaseline) : ''
  return `<section aria-labelledby="${id}"><h2 id="${id}">${title}</h2><figure>${legend}${drawn}<figcaption>${escapeHtml(caption)}</figcaption></figure></section>`
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
<dt>bits by formula</dt><dd>Per key or value number and token seen: exact rows count 16 bits, sealed rows what the method states. Under protocol E right after the compression of the prompt, under P and W at the end of the text.</dd>
<dt>bits held</dt><dd>Every byte the cache really holds at that moment, unused room and state included, times 8, over the numbers of all tokens seen. Tables that belong to the model, such as codebooks, are shared by all its caches; they stand apart in the ledger.</dd>
<dt>tokens kept</dt><dd>Rows attention still sees over tokens seen, mean over layers.</dd>
<dt>perplexity</dt><dd>exp of the mean negative log-likelihood of the scored tokens, in float64 from float32 logits.</dd>
<dt>KLD</dt><dd>KL(uncompressed || this) over the whole vocabulary, in nats: the mean and the 99 % quantile over positions.</dd>
<dt>top-1</dt><dd>Share of positions with the same most likely token as the uncompressed run.</dd>
<dt>passkey</dt><dd>A number hidden in a text, asked for after the text was compressed; a hit has every digit as the most likely token.</dd>
<dt>time</dt><dd>Medians of single steps, scoring excluded, measured once in the order of the table. For claims about speed use interleaved benchmarks.</dd>
</dl>`
