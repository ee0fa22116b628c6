// The table of reference numbers: every method on SmolLM2-135M-Instruct and WikiText-2, beside what the authors' code gives there.
// Writes results/reference.json and docs/reference-numbers.md. `node dist/reference.js [P|E]` does one protocol only.
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import type { KVCompressor } from '@kvloom/core'
import { loadModel, resolveModel } from '@kvloom/engine'
import { type Composition, compare, type Plan, protocolE, protocolP, type Report } from '@kvloom/eval'
import { kivi } from '@kvloom/kivi'
import { l2Norm } from '@kvloom/l2-norm'
import { none } from '@kvloom/none'
import { snapkv } from '@kvloom/snapkv'
import { streamingLlm } from '@kvloom/streaming-llm'
import { tova } from '@kvloom/tova'
import { machine } from './harness'

/** Largest accepted distance from the reference perplexity. */
const TOLERANCE = 0.01
/** The same where nothing is compressed. */
const DENSE_TOLERANCE = 0.001

interface Row {
  readonly name: string
  readonly composition: string
  readonly perplexity: number
  readonly meanKld: number
  readonly top1: number
}
interface Expected {
  readonly source: string
  readonly P: {
    readonly tokens: number
    readonly chunk: number
    readonly scoreFrom: number
    readonly idsSha256: string
    readonly rows: readonly Row[]
  }
  readonly E: {
    readonly tokens: number
    readonly promptTokens: number
    readonly idsSha256: string
    readonly rows: readonly (Row & { readonly keep: number })[]
  }
}

const here = (path: string) => new URL(`../${path}`, import.meta.url)
const expected = JSON.parse(await readFile(here('fixtures/reference.json'), 'utf8')) as Expected
const text = await readFile(here('fixtures/wikitext2-test-head.txt'), 'utf8')
const only = process.argv[2]

const evictions: Readonly<Record<string, (keep: number) => KVCompressor>> = {
  streamingllm: (keep) => streamingLlm({ keep }),
  knorm: (keep) => l2Norm({ keep, rounding: 'trunc', skipLayers: [] }),
  l2_skip01: (keep) => l2Norm({ keep }),
  snapkv: (keep) => snapkv({ keep }),
  tova: (keep) => tova({ keep }),
}
const quantizers: Readonly<Record<string, KVCompressor>> = {
  uncompressed: none({ store: 'f32' }),
  'KIVI-2 g32 R32': kivi({ bits: 2, residual: 32 }),
  'KIVI-2 g32 R128': kivi({ bits: 2 }),
  'KIVI-4 g32 R128': kivi({ bits: 4 }),
}

const { path } = await resolveModel('smollm2-135m-instruct')
const model = await loadModel(path, { backend: 'wasm' })

async function run(plan: Plan, sha256: string, compositions: readonly Composition[]): Promise<Report> {
  const ids = model.tokenizer.encodeFirst(text, plan.tokens, { bos: false })
  const digest = createHash('sha256')
    .update(new Uint8Array(ids.buffer, ids.byteOffset, plan.tokens * 4))
    .digest('hex')
  if (digest !== sha256) throw new Error(`the token ids differ from the reference's (sha256 ${digest})`)
  return compare({
    model,
    backend: 'wasm',
    ids,
    textName: 'WikiText-2 test',
    plan,
    compositions,
    decodeTokens: 0,
    onProgress: (p) => process.stderr.write(`\r${JSON.stringify(p).slice(0, 140).padEnd(140)}`),
  })
}

interface Line {
  readonly protocol: 'P' | 'E'
  readonly method: string
  readonly composition: string
  readonly keep: number | null
  readonly perplexity: number
  readonly reference: number
  readonly deviation: number
  readonly meanKld: number
  readonly referenceKld: number
  readonly top1: number
  readonly theoreticalBits: number
  readonly residentBits: number
  readonly within: boolean
}

const line = (protocol: 'P' | 'E', row: Row & { keep?: number }, report: Report, index: number): Line => {
  const result = report.compositions[index]?.result
  if (!result) throw new Error(`${row.composition} has no result: ${report.compositions[index]?.error?.message ?? ''}`)
  const deviation = result.quality.perplexity / row.perplexity - 1
  return {
    protocol,
    method: row.name,
    composition: row.composition,
    keep: row.keep ?? null,
    perplexity: result.quality.perplexity,
    reference: row.perplexity,
    deviation,
    meanKld: result.quality.meanKld,
    referenceKld: row.meanKld,
    top1: result.quality.top1,
    theoreticalBits: result.footprint.theoreticalBits,
    residentBits: result.footprint.residentBits,
    within: Math.abs(deviation) <= (row.name === 'uncompressed' ? DENSE_TOLERANCE : TOLERANCE),
  }
}

const lines: Line[] = []
if (only !== 'E') {
  const { rows, idsSha256, ...o } = expected.P
  const named = rows.map((row) => ({ name: row.composition, compressor: quantizers[row.name] ?? none() }))
  const report = await run(protocolP(o), idsSha256, named)
  lines.push(...rows.map((row, i) => line('P', row, report, i)))
}
if (only !== 'P') {
  const { rows, idsSha256, ...o } = expected.E
  const named = rows.map((row) => ({ name: row.composition, compressor: evictions[row.name]?.(row.keep) ?? none() }))
  const report = await run(protocolE(o), idsSha256, named)
  lines.push(...rows.map((row, i) => line('E', row, report, i)))
}
model.dispose()
process.stderr.write('\n')

const percent = (x: number) => `${x >= 0 ? '+' : ''}${(100 * x).toFixed(2)} %`
const table = (protocol: 'P' | 'E') => [
  '| composition | perplexity | reference | deviation | mean KLD | reference | top-1 | bits (theoretical) | bits (resident) |',
  '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
  ...lines
    .filter((l) => l.protocol === protocol)
    .map(
      (l) =>
        `| \`${l.composition}\` | ${l.perplexity.toFixed(3)} | ${l.reference.toFixed(3)} | ${percent(l.deviation)}${l.within ? '' : ' (outside)'} | ${l.meanKld.toFixed(4)} | ${l.referenceKld.toFixed(4)} | ${l.top1.toFixed(3)} | ${l.theoreticalBits.toFixed(2)} | ${l.residentBits.toFixed(2)} |`,
    ),
]
if (!only) {
  const { cpu, node } = machine()
  await writeFile(
    here('results/reference.json'),
    `${JSON.stringify({ schemaVersion: 1, machine: machine(), lines }, null, 2)}\n`,
  )
  const page = [
    '# Reference numbers',
    '',
    'Every method here beside the reference implementation of the same method, on the same model, text and settings. Made by',
    '`npm run -s pnpm -- --filter @kvloom/bench reference`; do not edit by hand.',
    '',
    `SmolLM2-135M-Instruct (Q4_1), WikiText-2 test text, wasm backend, ${cpu}, Node ${node}. ${expected.source}`,
    'Bits are per key or value number of every token seen; f16 is 16.',
    '',
    '## Protocol P: chunks over a compressed past',
    '',
    `First ${expected.P.tokens} tokens in chunks of ${expected.P.chunk}; perplexity over tokens ${expected.P.scoreFrom} to ${expected.P.tokens - 1}.`,
    '',
    ...table('P'),
    '',
    '## Protocol E: evict once after the prompt',
    '',
    `Prefill ${expected.E.promptTokens} tokens, evict, score the next ${expected.E.tokens - expected.E.promptTokens} in one pass.`,
    '',
    ...table('E'),
    '',
  ]
  await writeFile(new URL('../../../docs/reference-numbers.md', import.meta.url), page.join('\n'))
}
process.stdout.write(
  `${['P', 'E']
    .filter((p) => only === undefined || p === only)
    .flatMap((p) => table(p as 'P' | 'E'))
    .join('\n')}\n`,
)
const outside = lines.filter((l) => !l.within)
if (outside.length > 0) process.exitCode = 1
