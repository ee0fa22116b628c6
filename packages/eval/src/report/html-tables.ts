/** The tables of the HTML report. */
import * as format from './format'
import { markerSvg } from './markers'
import type { CompositionReport, Report, ResultReport } from './schema'

/** Text made safe for HTML. */
export const escapeHtml = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

/** A row's number and mark, as plots show it. */
export const swatch = (place: number): string =>
  `<span class="swatch">${markerSvg(place)}${place === 0 ? '' : `<span class="number">${place}</span>`}</span>`

const rowsOf = (report: Report): readonly CompositionReport[] => [report.baseline, ...report.compositions]

const scroll = (label: string, table: string): string =>
  `<div class="scroll" role="region" aria-label="${escapeHtml(label)}" tabindex="0">${table}</div>`

/** One column of the results. */
interface Column {
  /** The group it stands in. */
  readonly group: 'Size' | 'Quality' | 'Time, median'
  readonly head: string
  /** HTML of a cell; `base` is the uncompressed run's result, absent in its own row. */
  readonly cell: (result: ResultReport, base: ResultReport | null) => string
}

/** One line per composition: size, quality, time. */
export function resultTable(report: Report): string {
  const rows = rowsOf(report)
  const columns = columnsOf(rows)
  const groups = [...new Set(columns.map(({ group }) => group))].map(
    (group) => `<th scope="colgroup" colspan="${columns.filter((c) => c.group === group).length}">${group}</th>`,
  )
  const head = `<thead><tr><th scope="col" rowspan="2">Composition</th>${groups.join('')}</tr>
<tr>${columns.map(({ head }) => `<th scope="col">${head}</th>`).join('')}</tr></thead>`
  const base = report.baseline.result
  const body = rows.map((row, place) => {
    const name = `<th scope="row">${swatch(place)}${escapeHtml(row.name)}</th>`
    const { result } = row
    const cells = result
      ? columns.map(({ cell }) => `<td>${cell(result, place === 0 ? null : base)}</td>`).join('')
      : `<td class="left failed" colspan="${columns.length}">${escapeHtml(sentence(format.whyNot(row)))}</td>`
    return `<tr${place === 0 ? ' class="baseline"' : ''}>${name}${cells}</tr>`
  })
  return scroll('Results', `<table>${head}<tbody>${body.join('\n')}</tbody></table>`)
}

const sentence = (text: string): string =>
  `${text.slice(0, 1).toUpperCase()}${text.slice(1)}${text.endsWith('.') ? '' : '.'}`

function columnsOf(rows: readonly CompositionReport[]): readonly Column[] {
  const some = (has: (result: ResultReport) => unknown): boolean => rows.some(({ result }) => result && has(result))
  const quality = (head: string, cell: (result: ResultReport) => string): Column => ({ group: 'Quality', head, cell })
  const size = (head: string, cell: (result: ResultReport) => string): Column => ({ group: 'Size', head, cell })
  const times = (which: 'prefill' | 'decode'): readonly Column[] =>
    some(({ times }) => times[which])
      ? [
          {
            group: 'Time, median',
            head: `${which}<br>ms/token`,
            cell: ({ times }, base) => time(times, which, base !== null),
          },
        ]
      : []
  return [
    size('bits<br>by formula', ({ footprint }) => format.bits(footprint.theoreticalBits)),
    size('bits<br>held', ({ footprint }) => format.bits(footprint.residentBits)),
    size('ratio<br>to fp16', ({ footprint }) => format.factor(16 / footprint.residentBits)),
    size('tokens<br>kept', ({ footprint }) => format.percent(footprint.keptFraction, 0)),
    {
      group: 'Quality',
      head: 'perplexity',
      cell: ({ quality: { perplexity } }, base) =>
        `${format.number(perplexity)}${base === null ? '' : `<br><small>${format.signedPercent(perplexity / base.quality.perplexity - 1, 1)}</small>`}`,
    },
    quality('mean<br>KLD', (r) => format.number(r.quality.meanKld, 3)),
    quality('99 %<br>KLD', (r) => format.number(r.quality.kld99, 3)),
    quality('top-1', (r) => format.percent(r.quality.top1)),
    ...(some(({ passkey }) => passkey)
      ? [quality('passkey', ({ passkey }) => (passkey ? `${passkey.hits} of ${passkey.trials}` : '–'))]
      : []),
    ...times('prefill'),
    ...times('decode'),
  ]
}

/** Median, quartiles, and for every row but the uncompressed one the ratio to it, with quartiles too. */
function time({ ratios, ...times }: ResultReport['times'], which: 'prefill' | 'decode', withRatio: boolean): string {
  const spread = times[which]
  if (!spread) return '–'
  const ratio = withRatio ? ratios[which] : null
  const over = ratio
    ? `<br><small title="quartiles ${format.factor(ratio.lowerQuartile)} to ${format.factor(ratio.upperQuartile)}">${format.factor(ratio.median)}</small>`
    : ''
  return `<span title="${spread.count} steps">${format.milliseconds(spread.median)}</span> <small>${format.quartiles(spread)}</small>${over}`
}

const KINDS = [
  'payload',
  'metadata',
  'window',
  'slack',
  'state',
  'index',
  'workspace',
  'perPrompt',
  'total',
  'peak',
  'host',
  'perModel',
] as const
const KIND_NAMES: Record<(typeof KINDS)[number], string> = {
  payload: 'packed codes',
  metadata: 'scales and minima',
  window: 'exact rows',
  slack: 'allocated, unused',
  state: 'positions, scores',
  index: 'recall index',
  workspace: 'workspace',
  perPrompt: 'tables per prompt',
  total: 'total',
  peak: 'peak',
  host: 'in host memory',
  perModel: 'tables per model',
}

/** The byte ledger at the end of the text; kinds that nobody uses are left out. */
export function ledgerTable(report: Report): string {
  const rows = rowsOf(report).flatMap((row, place) =>
    row.result ? [{ row, place, ledger: row.result.footprintAtEnd.ledger }] : [],
  )
  const kinds = KINDS.filter((kind) => kind === 'total' || kind === 'peak' || rows.some((r) => r.ledger[kind] > 0))
  const head = `<thead><tr><th scope="col">Composition</th>${kinds.map((kind) => `<th scope="col">${KIND_NAMES[kind]}</th>`).join('')}</tr></thead>`
  const body = rows.map(({ row, place, ledger }) => {
    const cells = kinds
      .map((kind) => `<td>${ledger[kind] === 0 ? '<span class="soft">–</span>' : format.bytes(ledger[kind])}</td>`)
      .join('')
    return `<tr${place === 0 ? ' class="baseline"' : ''}><th scope="row">${swatch(place)}${escapeHtml(row.name)}</th>${cells}</tr>`
  })
  return scroll('Byte ledger', `<table>${head}<tbody>${body.join('\n')}</tbody></table>`)
}
