// The sections of the page of reference numbers: rows beside a reference, passkeys, mixes beside the marks that they are to reach.
import type { Group, Measurement, Measurements, PlanWish } from './measurements'
import { bits, kilobytes, percent, table } from './page'

/** What the reference implementation of a method gives. */
interface ReferenceRow {
  readonly composition: string
  readonly perplexity: number
  readonly meanKld: number
  readonly top1: number
  /** Largest accepted distance of the perplexity; default the file's. */
  readonly tolerance?: number
  readonly note?: string
}
/** How many passkeys it finds. */
interface PasskeyRow {
  readonly composition: string
  readonly hits: number
  readonly meanLogProbability: number
}
/** A mix, and what it is to reach. */
interface MixRow {
  readonly composition: string
  readonly marks?: {
    /** Largest distance of the perplexity from that of the uncompressed model. */
    readonly perplexity?: number
    /** Most resident bits. */
    readonly bits?: number
  }
}
type Kind =
  | { readonly kind?: undefined; readonly rows: readonly ReferenceRow[] }
  | { readonly kind: 'passkeys'; readonly rows: readonly PasskeyRow[] }
  | { readonly kind: 'mixes'; readonly full: number; readonly rows: readonly MixRow[] }
export type ExpectedGroup = Omit<Group, 'compositions'> & {
  readonly title: string
  readonly text?: string
} & Kind

export interface Expected {
  readonly source: string
  readonly tolerance: number
  readonly groups: readonly ExpectedGroup[]
}

export interface Section {
  readonly lines: readonly string[]
  /** Rows that miss what is expected of them. */
  readonly outside: number
  readonly missing: number
}

/**
 * One section of the page.
 * @param failures why rows failed, by composition
 */
export function sectionOf(
  group: ExpectedGroup,
  measurements: Measurements,
  failures: ReadonlyMap<string, string>,
  tolerance: number,
): Section {
  const find = ({ composition }: { composition: string }) => measurements.get(group, composition)
  const bare = ({ composition }: { composition: string }, width: number): string[] => {
    const why = failures.get(composition)
    return [code(composition), why ? `failed: ${why}` : 'not measured', ...Array<string>(width - 2).fill('')]
  }
  const render = <R extends { readonly composition: string; readonly note?: string }>(
    rows: readonly R[],
    head: readonly string[],
    cells: (row: R, measured: Measurement) => string[],
    within: (row: R, measured: Measurement) => boolean,
  ): Section => {
    const all = rows.map((row) => ({ row, measured: find(row) }))
    const notes = rows.filter((row) => row.note).map((row) => `${code(row.composition)}: ${row.note}.`)
    return {
      lines: [
        `## ${group.title}`,
        '',
        settings(group),
        ...(group.text ? ['', group.text] : []),
        '',
        ...table(
          head,
          all.map(({ row, measured }) => (measured ? cells(row, measured) : bare(row, head.length))),
        ),
        ...(notes.length > 0 ? ['', ...notes] : []),
        '',
      ],
      outside: all.filter(({ row, measured }) => measured && !within(row, measured)).length,
      missing: all.filter(({ measured }) => !measured).length,
    }
  }
  switch (group.kind) {
    case undefined: {
      const within = (row: ReferenceRow, measured: Measurement): boolean =>
        Math.abs(measured.perplexity / row.perplexity - 1) <= (row.tolerance ?? tolerance)
      return render(group.rows, REFERENCE_HEAD, (row, m) => referenceCells(row, m, within(row, m)), within)
    }
    case 'passkeys':
      return render(group.rows, PASSKEY_HEAD, passkeyCells, (row, { passkey }) => (passkey?.hits ?? 0) >= row.hits)
    case 'mixes': {
      const { full } = group
      return render(
        group.rows,
        MIX_HEAD,
        (row, m) => mixCells(row, m, full),
        (row, m) => missedMarks(row, m, full).length === 0,
      )
    }
  }
}

const code = (composition: string): string => `\`${composition}\``

const REFERENCE_HEAD = [
  'composition',
  'perplexity',
  'reference',
  'deviation',
  'mean KLD',
  'reference',
  'top-1',
  'reference',
  'bits (formula)',
  'bits (resident)',
  'tables per model',
]
function referenceCells(row: ReferenceRow, { perplexity, meanKld, top1, footprint }: Measurement, within: boolean) {
  return [
    code(row.composition),
    perplexity.toFixed(3),
    row.perplexity.toFixed(3),
    `${percent(perplexity / row.perplexity - 1)}${within ? '' : ' (outside)'}`,
    meanKld.toFixed(4),
    row.meanKld.toFixed(4),
    top1.toFixed(3),
    row.top1.toFixed(3),
    bits(footprint.theoreticalBits),
    bits(footprint.residentBits),
    kilobytes(footprint.ledger.perModel),
  ]
}

const PASSKEY_HEAD = ['composition', 'found', 'reference', 'mean log-probability', 'reference', 'bits (resident)']
const passkeyCells = (row: PasskeyRow, { passkey, footprint }: Measurement): string[] => [
  code(row.composition),
  found(passkey),
  `${row.hits}/${passkey?.trials ?? ''}`,
  passkey?.meanLogProbability.toFixed(3) ?? '',
  row.meanLogProbability.toFixed(3),
  bits(footprint.residentBits),
]
const found = (passkey: Measurement['passkey']): string => (passkey ? `${passkey.hits}/${passkey.trials}` : '')

const MIX_HEAD = [
  'composition',
  'perplexity',
  'from full',
  'mark',
  'bits (resident)',
  'mark',
  'with tables, 2,048 tokens',
  'with tables, 32,768 tokens',
  'passkeys',
  'mean KLD',
  'top-1',
]
function mixCells(row: MixRow, measured: Measurement, full: number): string[] {
  const { perplexity, meanKld, top1, footprint, passkey } = measured
  const missed = missedMarks(row, measured, full)
  const { total, perModel } = footprint.ledger
  // Tables weigh the less the more tokens share them.
  const withTables = (tokens: number): string =>
    bits(footprint.residentBits * (1 + (perModel / (total - perModel)) * (footprint.tokens / tokens)))
  const { marks = {} } = row
  const miss = (name: string): string => (missed.includes(name) ? ' (missed)' : '')
  return [
    code(row.composition),
    perplexity.toFixed(3),
    percent(perplexity / full - 1),
    marks.perplexity === undefined ? '' : `${percent(marks.perplexity)}${miss('perplexity')}`,
    bits(footprint.residentBits),
    marks.bits === undefined ? '' : `${bits(marks.bits)}${miss('bits')}`,
    withTables(2048),
    withTables(32_768),
    `${found(passkey)}${miss('passkeys')}`,
    meanKld.toFixed(4),
    top1.toFixed(3),
  ]
}
function missedMarks({ marks }: MixRow, { perplexity, footprint, passkey }: Measurement, full: number): string[] {
  if (!marks) return []
  return [
    ...(marks.perplexity !== undefined && perplexity > full * (1 + marks.perplexity) ? ['perplexity'] : []),
    ...(marks.bits !== undefined && footprint.residentBits > marks.bits ? ['bits'] : []),
    ...(passkey && passkey.hits < passkey.trials ? ['passkeys'] : []),
  ]
}

const settings = ({ plan, calibration }: ExpectedGroup): string =>
  `${planned(plan)}${calibration ? ` ${fittedOn(calibration)}` : ''}`

const fittedOn = ({ text, sequences, tokens, startToken }: NonNullable<Group['calibration']>): string =>
  `Fitted on ${sequences === 1 ? 'one sequence' : `${sequences} sequences`} of ${tokens} tokens${startToken ? ', the start token first' : ''}, of \`apps/bench/fixtures/${text}\`.`

function planned(plan: PlanWish): string {
  switch (plan.protocol) {
    case 'P':
      return `First ${plan.tokens} tokens in chunks of ${plan.chunk}; perplexity over tokens ${plan.scoreFrom} to ${plan.tokens - 1}. Bits at ${plan.tokens} tokens.`
    case 'E':
      return `Prefill ${plan.promptTokens} tokens, evict, score the next ${plan.tokens - plan.promptTokens} ${plan.chunk === 1 ? 'one by one' : 'in one pass'}. Bits at the end of the prompt.`
    case 'W':
      return `A prompt of ${plan.promptTokens ?? plan.tokens} tokens in steps of ${plan.chunk ?? 512}; perplexity over tokens ${plan.scoreFrom} to ${(plan.scoreTo ?? plan.tokens) - 1}. Bits at ${plan.tokens} tokens.`
  }
}
