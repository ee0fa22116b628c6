/** The comparison as a table for a terminal. */
import Table from 'cli-table3'
import * as format from './format'
import type { CompositionReport, Report } from './schema'

const COLUMNS = [
  'composition',
  'bits',
  'resident',
  'kept',
  'perplexity',
  'mean KLD',
  '99 % KLD',
  'top-1',
  'prefill',
  'decode',
]

/** @param color ANSI colours, for terminals that show them. Lines are at most about 120 columns wide for usual names. */
export function renderTable(report: Report, options: { readonly color?: boolean } = {}): string {
  const rows = [report.baseline, ...report.compositions]
  const withPasskey = rows.some((r) => r.result?.passkey)
  const withTables = rows.some((r) => r.result && r.result.footprint.ledger.perModel > 0)
  const head = [...COLUMNS, ...(withTables ? ['tables'] : []), ...(withPasskey ? ['passkey'] : [])]
  const table = new Table({
    head,
    colAligns: head.map((_, i) => (i === 0 ? 'left' : 'right')),
    style: {
      compact: true,
      head: options.color ? ['bold'] : [],
      border: options.color ? ['gray'] : [],
      'padding-left': 1,
      'padding-right': 1,
    },
  })
  for (const row of rows) {
    if (row.result) table.push(cells(row, row.result, withTables, withPasskey))
    else table.push([row.name, { content: whyNot(row), colSpan: head.length - 1, hAlign: 'left' }])
  }
  const units = `bits: per value, by formula · resident: bits per value really held · ${withTables ? 'tables: per model, beside the bits · ' : ''}prefill: ms a token · decode: ms a step (medians)`
  return `${table.toString()}\n${units}\n${format.protocolSentence(report.protocol)}`
}

function cells(
  row: CompositionReport,
  result: NonNullable<CompositionReport['result']>,
  withTables: boolean,
  withPasskey: boolean,
): string[] {
  const { quality, footprint, times, passkey } = result
  const time = (median: number | undefined): string => (median === undefined ? '–' : format.milliseconds(median))
  const all = [
    row.name,
    format.bits(footprint.theoreticalBits),
    format.bits(footprint.residentBits),
    format.percent(footprint.keptFraction, 0),
    format.number(quality.perplexity),
    format.number(quality.meanKld),
    format.number(quality.kld99),
    format.percent(quality.top1),
    time(times.prefill?.median),
    time(times.decode?.median),
  ]
  if (withTables) all.push(footprint.ledger.perModel > 0 ? format.bytes(footprint.ledger.perModel) : '–')
  if (withPasskey) all.push(passkey ? `${passkey.hits}/${passkey.trials}` : '–')
  return all
}

/** Why a row has no numbers, in one line. */
function whyNot(row: CompositionReport): string {
  if (row.error) return `failed: ${row.error.message}`.slice(0, 96)
  return row.status === 'interrupted' ? 'interrupted' : row.status
}
