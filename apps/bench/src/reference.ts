// The table of reference numbers: every method on SmolLM2-135M-Instruct and WikiText-2, beside what the reference implementation
// gives there. Measures what results/measurements.json lacks, writes docs/reference-numbers.md.
//
//   node dist/reference.js [--only higgs,aqua] [--fresh] [--page]
import { readFile, writeFile } from 'node:fs/promises'
import { measureFlags } from './command-line'
import { here, interruptSignal, type Measurement, Measurements, measureMissing, type PlanWish } from './measurements'
import { bits, kilobytes, percent, table } from './page'

interface ExpectedRow {
  readonly name: string
  readonly composition: string
  readonly perplexity: number
  readonly meanKld: number
  readonly top1: number
  /** Bits per value of the reference, by formula. */
  readonly bits?: number
  /** Largest accepted distance of the perplexity; default the file's. */
  readonly tolerance?: number
  readonly note?: string
}
interface Expected {
  readonly source: string
  readonly tolerance: number
  readonly groups: readonly {
    readonly id: string
    readonly title: string
    readonly plan: PlanWish
    readonly idsSha256: string
    readonly idsHashed?: number
    readonly rows: readonly ExpectedRow[]
  }[]
}

const expected = JSON.parse(await readFile(here('fixtures/reference.json'), 'utf8')) as Expected
const { only, fresh, page } = measureFlags()
const measurements = await Measurements.read()
const failures = page
  ? new Map<string, string>()
  : await measureMissing(
      expected.groups.map(({ rows, ...group }) => ({ ...group, compositions: rows.map((r) => r.composition) })),
      measurements,
      { only, fresh, signal: interruptSignal() },
    )

const HEAD = [
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

const deviation = (row: ExpectedRow, measured: Measurement): number => measured.perplexity / row.perplexity - 1
const within = (row: ExpectedRow, measured: Measurement): boolean =>
  Math.abs(deviation(row, measured)) <= (row.tolerance ?? expected.tolerance)

function cells(row: ExpectedRow, measured: Measurement | undefined): string[] {
  const composition = `\`${row.composition}\``
  const reference = [row.perplexity.toFixed(3), row.meanKld.toFixed(4), row.top1.toFixed(3)] as const
  if (!measured) {
    const why = failures.get(row.composition)
    return [
      composition,
      why ? `failed: ${why}` : 'not measured',
      reference[0],
      '',
      '',
      reference[1],
      '',
      reference[2],
      '',
      '',
      '',
    ]
  }
  const { footprint } = measured
  return [
    composition,
    measured.perplexity.toFixed(3),
    reference[0],
    `${percent(deviation(row, measured))}${within(row, measured) ? '' : ' (outside)'}`,
    measured.meanKld.toFixed(4),
    reference[1],
    measured.top1.toFixed(3),
    reference[2],
    bits(footprint.theoreticalBits),
    bits(footprint.residentBits),
    kilobytes(footprint.ledger.perModel),
  ]
}

function settings(plan: PlanWish): string {
  switch (plan.protocol) {
    case 'P':
      return `First ${plan.tokens} tokens in chunks of ${plan.chunk}; perplexity over tokens ${plan.scoreFrom} to ${plan.tokens - 1}. Bits at ${plan.tokens} tokens.`
    case 'E':
      return `Prefill ${plan.promptTokens} tokens, evict, score the next ${plan.tokens - plan.promptTokens} ${plan.chunk === 1 ? 'one by one' : 'in one pass'}. Bits at the end of the prompt.`
    case 'W':
      return `A prompt of ${plan.promptTokens ?? plan.tokens} tokens in steps of ${plan.chunk ?? 512}; perplexity over tokens ${plan.scoreFrom} to ${(plan.scoreTo ?? plan.tokens) - 1}. Bits at ${plan.tokens} tokens.`
  }
}

const sections = expected.groups.map(({ title, plan, rows }) => {
  const measured = rows.map((row) => ({ row, measured: measurements.get(plan, row.composition) }))
  const outside = measured.filter((each) => each.measured && !within(each.row, each.measured))
  const notes = rows.filter((row) => row.note).map((row) => `\`${row.composition}\`: ${row.note}.`)
  const lines = [
    `## ${title}`,
    '',
    settings(plan),
    '',
    ...table(
      HEAD,
      measured.map((each) => cells(each.row, each.measured)),
    ),
    ...(notes.length > 0 ? ['', ...notes] : []),
    '',
  ]
  return { lines, outside: outside.length, missing: measured.filter((each) => !each.measured).length }
})

const machines = new Set(
  expected.groups.flatMap(({ plan, rows }) =>
    rows.flatMap((row) => {
      const measured = measurements.get(plan, row.composition)
      return measured ? [`${measured.machine.cpu}, Node ${measured.machine.node}`] : []
    }),
  ),
)

await writeFile(
  new URL('../../../docs/reference-numbers.md', import.meta.url),
  [
    '# Reference numbers',
    '',
    'Every method here beside the reference implementation of the same method, on the same model, text and settings. Made by',
    '`npm run -s pnpm -- --filter @kvloom/bench reference`; do not edit by hand.',
    '',
    `SmolLM2-135M-Instruct (Q4_1), WikiText-2 test text, wasm backend, ${[...machines].join('; ')}. ${expected.source}`,
    'Perplexities are expected within 1 % unless the row says more; where a method breaks the model (perplexities in the hundreds',
    'and above) within 5 %, since small differences grow there.',
    '',
    'Bits are per key or value number of every token seen; f16 is 16. *By formula* counts exact rows at 16 bits and stored rows at',
    'what the method states; *resident* is every byte the cache holds, room and state included. Tables of the model (codebooks,',
    'predictors, maps) are shared by all caches of a model and stand apart.',
    '',
    ...sections.flatMap((s) => s.lines),
  ].join('\n'),
)

const outside = sections.reduce((sum, s) => sum + s.outside, 0)
const missing = sections.reduce((sum, s) => sum + s.missing, 0)
for (const [composition, why] of failures) process.stderr.write(`${composition} failed: ${why}\n`)
process.stdout.write(`docs/reference-numbers.md is made: ${outside} rows outside, ${missing} not measured.\n`)
if (outside > 0 || failures.size > 0) process.exitCode = 1
