/** The comparison as a table for a terminal. */
import Table from 'cli-table3'
import * as format from './format'
import type { CompositionReport, Report } from './schema'

type Result = NonNullable<CompositionReport['result']>

interface Column {
  readonly head: string
  /** What the column shows, for the line of units; null where the head says it. */
  readonly unit: string | null
  readonly cell: (result: Result) => string
}

/** @param color ANSI colours, for terminals that show them. Lines are about 130 columns wide, and as many more as names are longer than 20 letters. */
export function renderTable(report: Report, options: { readonly color?: boolean } = {}): string {
  const rows = [report.baseline, ...report.compositions]
  const columns = columnsOf(rows)
  const table = new Table({
    head: ['composition', ...columns.map(({ head }) => head)],
    colAligns: ['left', ...columns.map(() => 'right' as const)],
    style: {
      compact: true,
      head: options.color ? ['bold'] : [],
      border: options.color ? ['gray'] : [],
      'padding-left': 1,
      'padding-right': 1,
    },
  })
  for (const { name, result, ...row } of rows) {
    if (result) table.push([name, ...columns.map(({ cell }) => cell(result))])
    else table.push([name, { content: shortened(format.whyNot(row)), colSpan: columns.length, hAlign: 'left' }])
  }
  const units = columns.flatMap(({ head, unit }) => (unit === null ? [] : [`${head}: ${unit}`]))
  const notes = rows.flatMap(({ name, notes }) => notes.map((note) => `${name}: ${note}`))
  return [
    table.toString(),
    units.join(' · '),
    format.protocolSentence(report.protocol),
    ...(columns.some(({ head }) => head === 'decode')
      ? [format.timingSentence(report, '± half the distance of the quartiles')]
      : []),
    ...notes,
  ].join('\n')
}

/** Letters of an error that a line of the table shows; the report holds all of it. */
const MOST = 96
const shortened = (text: string): string => (text.length > MOST ? `${text.slice(0, MOST - 1)}…` : text)

function columnsOf(rows: readonly CompositionReport[]): readonly Column[] {
  const some = (has: (result: Result) => unknown): boolean => rows.some(({ result }) => result && has(result))
  const times = (which: 'prefill' | 'decode', unit: string): Column[] =>
    some(({ times }) => times[which])
      ? [
          {
            head: which,
            unit,
            cell: ({ times }) => (times[which] ? format.medianAndSpread(times[which]) : '–'),
          },
          {
            head: '×',
            unit: which === 'decode' ? "the time over the uncompressed row's in the same rounds, median" : null,
            cell: ({ times }) => times.ratios[which]?.median.toFixed(2) ?? '–',
          },
        ]
      : []
  return [
    {
      head: 'bits',
      unit: 'per value, by formula (exact rows count as 16)',
      cell: ({ footprint }) => format.bits(footprint.theoreticalBits),
    },
    {
      head: 'resident',
      unit: 'bits per value really held',
      cell: ({ footprint }) => format.bits(footprint.residentBits),
    },
    {
      head: 'kept',
      unit: 'tokens, mean over layers',
      cell: ({ footprint }) => format.percent(footprint.keptFraction, 0),
    },
    { head: 'perplexity', unit: null, cell: ({ quality }) => format.number(quality.perplexity) },
    { head: 'mean KLD', unit: null, cell: ({ quality }) => format.number(quality.meanKld) },
    { head: '99 % KLD', unit: null, cell: ({ quality }) => format.number(quality.kld99) },
    { head: 'top-1', unit: null, cell: ({ quality }) => format.percent(quality.top1) },
    ...times('prefill', 'ms a token'),
    ...times('decode', 'ms a step'),
    ...(some(({ footprintAtEnd }) => footprintAtEnd.ledger.perModel > 0)
      ? [
          {
            head: 'tables',
            unit: 'of the model at the end of the text, beside the bits',
            cell: ({ footprintAtEnd: { ledger } }: Result) =>
              ledger.perModel > 0 ? format.bytes(ledger.perModel) : '–',
          },
        ]
      : []),
    ...(some(({ passkey }) => passkey)
      ? [
          {
            head: 'passkey',
            unit: null,
            cell: ({ passkey }: Result) => (passkey ? `${passkey.hits}/${passkey.trials}` : '–'),
          },
        ]
      : []),
  ]
}
