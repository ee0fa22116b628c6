// What a bit buys: every method that runs on a stream of chunks, at the bits that it really holds, beside AQUA-KV.
// Measures what results/measurements.json lacks, writes docs/same-bits.md and results/same-bits.json.
//
//   node dist/same-bits.js [--only kivi] [--fresh] [--page]
import { readFile, writeFile } from 'node:fs/promises'
import { measureFlags } from './command-line'
import { here, interruptSignal, type Measurement, Measurements, measureMissing, type PlanWish } from './measurements'
import { bits, kilobytes, table } from './page'

const FAMILIES: Readonly<Record<string, readonly string[]>> = {
  'AQUA-KV': ['aqua-kv(bits=2, group=64)', 'aqua-kv(bits=3, group=64)', 'aqua-kv(bits=4, group=64)'],
  HIGGS: ['higgs(bits=2, group=64)', 'higgs(bits=3, group=64)', 'higgs(bits=4, group=64)'],
  KIVI: [
    'kivi(bits=2, group=64, residual=64)',
    'kivi(bits=2, residual=32)',
    'kivi(bits=3, group=64, residual=64)',
    'kivi(bits=3, residual=32)',
    'kivi(bits=4, group=64, residual=64)',
    'kivi(bits=4, residual=32)',
  ],
  'ggml blocks': ['block-formats(format=q4_0)', 'block-formats(format=q4_1)', 'block-formats(format=q8_0)'],
  KVQuant: ['kvquant(bits=2)', 'kvquant(bits=3)', 'kvquant(bits=4)'],
  'KVQuant, no outliers': ['kvquant(bits=2, dense=1)', 'kvquant(bits=3, dense=1)', 'kvquant(bits=4, dense=1)'],
  DecoQuant: ['decoquant(bits=2)', 'decoquant(bits=3)', 'decoquant(bits=4)'],
  'KVzip + q8_0': [
    'kvzip(keep=0.27, every=512, prefix=24)+block-formats(format=q8_0)',
    'kvzip(keep=0.4, every=512, prefix=24)+block-formats(format=q8_0)',
    'kvzip(keep=0.52, every=512, prefix=24)+block-formats(format=q8_0)',
  ],
}
/** Bits at which families are read off their lines. */
const AT = [2.5, 3, 3.5, 4, 4.25, 4.5]

const { groups } = JSON.parse(await readFile(here('fixtures/reference.json'), 'utf8')) as {
  groups: readonly { readonly id: string; readonly plan: PlanWish; readonly idsSha256: string }[]
}
const group = groups.find(({ id }) => id === 'P')
if (!group) throw new Error('fixtures/reference.json has no group P')

const { only, fresh, page } = measureFlags()
const measurements = await Measurements.read()
const failures = page
  ? new Map<string, string>()
  : await measureMissing([{ ...group, compositions: Object.values(FAMILIES).flat() }], measurements, {
      only,
      fresh,
      signal: interruptSignal(),
    })

interface Point {
  readonly family: string
  readonly composition: string
  readonly held: number
  readonly measured: Measurement
}
const points: readonly Point[] = Object.entries(FAMILIES)
  .flatMap(([family, compositions]) =>
    compositions.flatMap((composition) => {
      const measured = measurements.get(group, composition)
      return measured ? [{ family, composition, held: measured.footprint.residentBits, measured }] : []
    }),
  )
  .sort((a, b) => a.held - b.held)
const of = (family: string): readonly Point[] => points.filter((p) => p.family === family)

/** KLD of a family at so many bits: its logarithm is read off the straight line between the two points beside them. */
function kldAt(family: string, at: number): number | null {
  const own = of(family)
  const above = own.findIndex((p) => p.held >= at)
  const [a, b] = [own[above - 1], own[above]]
  if (!b) return null
  if (b.held === at) return b.measured.meanKld
  if (!a) return null
  const share = (at - a.held) / (b.held - a.held)
  return Math.exp((1 - share) * Math.log(a.measured.meanKld) + share * Math.log(b.measured.meanKld))
}

/** The AQUA-KV point with the most bits that has no more than this one. */
const aquaWithin = (held: number): Point | undefined =>
  of('AQUA-KV')
    .filter((p) => p.held <= held)
    .at(-1)

const kld = (x: number): string => (x < 0.001 ? x.toExponential(1) : x.toFixed(4))
const families = Object.keys(FAMILIES)
const atBits = AT.map((at) => ({ bits: at, kld: Object.fromEntries(families.map((f) => [f, kldAt(f, at)])) }))

await writeFile(
  here('results/same-bits.json'),
  `${JSON.stringify(
    {
      schemaVersion: 1,
      plan: group.plan,
      points: points.map(({ family, composition, held, measured }) => ({
        family,
        composition,
        residentBits: held,
        theoreticalBits: measured.footprint.theoreticalBits,
        meanKld: measured.meanKld,
        perplexity: measured.perplexity,
        top1: measured.top1,
        tablesPerModel: measured.footprint.ledger.perModel,
      })),
      atBits,
    },
    null,
    2,
  )}\n`,
)

const machines = new Set(points.map(({ measured: { machine } }) => `${machine.cpu}, Node ${machine.node}`))
await writeFile(
  new URL('../../../docs/same-bits.md', import.meta.url),
  [
    '# The same bits',
    '',
    'What methods make of equal memory: the mean KL divergence from the uncompressed model against the bits that the cache really',
    'holds, and AQUA-KV, which quantizes what a linear map of the layer before cannot predict, as the measure of the others. Made by',
    '`npm run -s pnpm -- --filter @kvloom/bench same-bits`; do not edit by hand.',
    '',
    `SmolLM2-135M-Instruct (Q4_1), ${group.plan.tokens} tokens of the WikiText-2 test text in chunks of 128 (protocol P), wasm backend,`,
    `${[...machines].join('; ')}. AQUA-KV is fitted on other text (Moby-Dick). Its predictors are tables of the model, shared by all`,
    'caches: they stand apart from the bits, as the tables and maps of others do. KVzip has just evicted when bits are counted; up to 511 newer',
    'tokens have all their pairs until it does so again. Methods that act at the end of a prompt alone are not here (a stream has none), nor are those of low rank, which hold more bits.',
    '',
    '## Every point',
    '',
    'The last columns: the AQUA-KV of the most bits that holds no more than the row, and how many times its divergence the row has.',
    '',
    ...table(
      [
        'composition',
        'bits (formula)',
        'bits (resident)',
        'mean KLD',
        'perplexity',
        'top-1',
        'tables per model',
        'AQUA-KV',
        'its KLD',
        'times',
      ],
      points.map(({ family, composition, held, measured }) => {
        const aqua = family === 'AQUA-KV' ? undefined : aquaWithin(held)
        return [
          `\`${composition}\``,
          bits(measured.footprint.theoreticalBits),
          bits(held),
          kld(measured.meanKld),
          measured.perplexity.toFixed(3),
          measured.top1.toFixed(3),
          kilobytes(measured.footprint.ledger.perModel),
          aqua ? `${bits(aqua.held)} bits` : '',
          aqua ? kld(aqua.measured.meanKld) : '',
          aqua ? (measured.meanKld / aqua.measured.meanKld).toFixed(1) : '',
        ]
      }),
    ),
    '',
    '## At equal bits',
    '',
    'Mean KLD at so many resident bits, read off the line between a family’s two points beside them (straight in the logarithm);',
    'empty where a family has no point on one side.',
    '',
    ...table(
      ['bits', ...families],
      atBits.map((row) => [
        String(row.bits),
        ...families.map((f) => {
          const value = row.kld[f]
          return value === null || value === undefined ? '' : kld(value)
        }),
      ]),
    ),
    '',
  ].join('\n'),
)

for (const [composition, why] of failures) process.stderr.write(`${composition} failed: ${why}\n`)
process.stdout.write(`docs/same-bits.md is made of ${points.length} points.\n`)
if (failures.size > 0) process.exitCode = 1
