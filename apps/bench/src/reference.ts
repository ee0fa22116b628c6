// The table of reference numbers: every method on SmolLM2-135M-Instruct and WikiText-2, beside what the reference implementation
// gives there. Measures what results/measurements.json lacks, writes docs/reference-numbers.md.
//
//   node dist/reference.js [--only higgs,aqua] [--fresh] [--page]
import { readFile, writeFile } from 'node:fs/promises'
import { measureFlags } from './command-line'
import { here, interruptSignal, Measurements, measureMissing } from './measurements'
import { type Expected, sectionOf } from './reference-sections'

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

const sections = expected.groups.map((group) => sectionOf(group, measurements, failures, expected.tolerance))

const machines = new Set(
  expected.groups.flatMap((group) =>
    group.rows.flatMap((row) => {
      const measured = measurements.get(group, row.composition)
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
