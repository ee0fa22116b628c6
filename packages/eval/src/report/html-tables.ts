/** The tables of the HTML report. */
import * as format from './format'
import { colorOf } from './plots'
import type { CompositionReport, Report, ResultReport } from './schema'

/** Text made safe for HTML. */
export const escapeHtml = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

export const swatch = (place: number): string =>
  `<span class="swatch" aria-hidden="true" style="background:${colorOf(place)}"></span>`

const rowsOf = (report: Report): readonly CompositionReport[] => [report.baseline, ...report.compositions]

const scroll = (label: string, table: string): string =>
  `<div class="scroll" role="region" aria-label="${escapeHtml(label)}" tabindex="0">${table}</div>`

/** One line per composition: size, quality, time. */
export function resultTable(report: Report): string {
  const rows = rowsOf(report)
  const passkey = rows.some((r) => r.result?.passkey)
  const columns = passkey ? 12 : 11
  const head = `<thead><tr><th scope="col" rowspan="2">Composition</th><th scope="colgroup" colspan="4">Size</th><th scope="colgroup" colspan="${passkey ? 5 : 4}">Quality</th><th scope="colgroup" colspan="2">Time, median</th></tr>
<tr><th scope="col">bits<br>by formula</th><th scope="col">bits<br>held</th><th scope="col">ratio<br>to fp16</th><th scope="col">tokens<br>kept</th><th scope="col">perplexity</th><th scope="col">mean<br>KLD</th><th scope="col">99 %<br>KLD</th><th scope="col">top-1</th>${passkey ? '<th scope="col">passkey</th>' : ''}<th scope="col">prefill<br>ms/token</th><th scope="col">decode<br>ms/token</th></tr></thead>`
  const base = report.baseline.result?.quality.perplexity
  const body = rows.map((row, place) => {
    const name = `<th scope="row">${swatch(place)}${escapeHtml(row.name)}</th>`
    const cells = row.result
      ? resultCells(row.result, place === 0 ? undefined : base, passkey)
      : `<td class="left failed" colspan="${columns - 1}">${escapeHtml(whyNot(row))}</td>`
    return `<tr${place === 0 ? ' class="baseline"' : ''}>${name}${cells}</tr>`
  })
  return scroll('Results', `<table>${head}<tbody>${body.join('\n')}</tbody></table>`)
}

function resultCells(result: ResultReport, base: number | undefined, passkey: boolean): string {
  const { quality, footprint, times, overhead } = result
  const change =
    base === undefined ? '' : `<br><small>${format.signedPercent(quality.perplexity / base - 1, 1)}</small>`
  const cells = [
    format.bits(footprint.theoreticalBits),
    format.bits(footprint.residentBits),
    `${(16 / footprint.residentBits).toFixed(2)}×`,
    format.percent(footprint.keptFraction, 0),
    `${format.number(quality.perplexity)}${change}`,
    format.number(quality.meanKld, 3),
    format.number(quality.kld99, 3),
    format.percent(quality.top1),
    ...(passkey ? [result.passkey ? `${result.passkey.hits} of ${result.passkey.trials}` : '–'] : []),
    time(times.prefill, base === undefined ? null : overhead.prefill),
    time(times.decode, base === undefined ? null : overhead.decode),
  ]
  return cells.map((cell) => `<td>${cell}</td>`).join('')
}

function time(spread: ResultReport['times']['prefill'], overhead: number | null): string {
  if (!spread) return '–'
  const { median, lowerQuartile, upperQuartile, count } = spread
  const range = `quartiles ${format.milliseconds(lowerQuartile)} to ${format.milliseconds(upperQuartile)} ms, ${count} steps`
  const over = overhead === null ? '' : `<br><small>${format.signedPercent(overhead)}</small>`
  return `<span title="${range}">${format.milliseconds(median)}</span>${over}`
}

function whyNot(row: CompositionReport): string {
  if (row.error) return `Failed: ${row.error.message}`
  return row.status === 'interrupted' ? 'Not measured: the run was interrupted.' : `Not measured yet (${row.status}).`
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
