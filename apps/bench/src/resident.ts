// What compositions that drop rows hold over a long decode, beside what their live rows need: every such composition of the matrix on
// the tiny model, a prompt and then 2,000 decoded tokens, looked at after every step. Writes docs/resident-bytes.md and
// results/resident.json.
//
//   node dist/resident.js [--only streaming,kivi] (measures again the compositions that contain all of the names; the others' rows are kept)
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { foldSpaces, type KVCompressor, openCache, ready } from '@kvloom/core'
import { loadModel, resolveModel } from '@kvloom/engine'
import { neededBytes, prepareComposition } from '@kvloom/eval'
import { measureFlags } from './command-line'
import { keep } from './harness'
import { composeText } from './matrix-cases'
import { here } from './measurements'
import { table } from './page'

const PROMPT = 200
const DECODED = 2000
const CHUNK = 64
/** The rule: held bytes are at most this share above what live rows need, besides one page a part and lane. */
const SHARE = 1.15
const CALIBRATION = { sequences: 2, tokens: 256 }
/** Further settings of methods that drop rows at every step, which the matrix does not have. */
const EXTRA = [
  'streaming-llm(recent=64)',
  'streaming-llm(recent=64)+kivi(bits=2, residual=32)',
  'streaming-llm(positions=original)',
  'tova(cache=64)',
  'tova(cache=300)+higgs(bits=2, group=32, sinks=4, block=32)',
  'l2-norm(when=step, keep=0.5)',
  'l2-norm(when=step, keep=0.5)+block-formats(format=q8_0)',
]

interface Row {
  readonly composition: string
  /** Bytes held, tables of the model apart, and bytes that live rows need, when the ratio was worst and at the end. */
  readonly worst: Held
  readonly end: Held
  readonly within: boolean
  /** When it was measured, ISO 8601. */
  readonly measuredAt?: string
}
interface Held {
  readonly tokens: number
  readonly held: number
  readonly needed: number
  readonly pages: number
}

const { only } = measureFlags()
const drops = (c: KVCompressor): boolean =>
  c.stages.some((s) => s.kind === 'resample') ||
  foldSpaces(c.stages, 'keys').some(({ space }) => space.drops !== 'never')
const matrix = JSON.parse(await readFile(here('results/matrix.json'), 'utf8')) as {
  readonly cases: readonly { readonly composition: string; readonly outcome: string }[]
}
const texts = [...matrix.cases.filter((c) => c.outcome === 'runs').map((c) => c.composition), ...EXTRA].filter((text) =>
  only.every((part) => text.includes(part)),
)
const { path } = await resolveModel('tiny', { sources: ['tiny'] })
const model = await loadModel(path, { backend: 'wasm' })
const text = await readFile(join(path, '..', 'text', 'sample.txt'), 'utf8')
const ids = model.tokenizer.encodeFirst(text, PROMPT + DECODED, { special: false })
const cacheDir = await mkdtemp(join(tmpdir(), 'kvloom-resident-'))
const measured: Row[] = []
try {
  for (const composition of texts) {
    const composed = composeText(composition)
    if ('refused' in composed || !drops(composed.compressor)) continue
    process.stderr.write(`\r${composition}`.padEnd(110))
    measured.push(await run(composition, composed.compressor))
  }
} finally {
  model.dispose()
  await rm(cacheDir, { recursive: true, force: true })
  process.stderr.write('\n')
}

async function run(composition: string, compressor: KVCompressor): Promise<Row> {
  const prepared = await prepareComposition({ model, compressor, data: CALIBRATION, cacheDir })
  // Angles of RoPE go on beyond the tokens that the model was trained for; what it says there does not matter here.
  const shape = { ...prepared.model.shape, contextLength: PROMPT + DECODED }
  const cache = openCache(shape, ready(compressor, prepared.artifacts))
  const ratio = ({ held, needed, pages }: Held) => (held - pages) / needed
  let worst: Held | null = null
  let end: Held | null = null
  try {
    for (let at = 0; at < PROMPT + DECODED; ) {
      const n = at < PROMPT ? cache.canTake(Math.min(CHUNK, PROMPT - at)) : 1
      const phase = at >= PROMPT ? 'decode' : at + n === PROMPT ? 'promptEnd' : 'prompt'
      await prepared.model.forward(cache, ids.subarray(at, at + n), phase, { logits: 'none' })
      at += n
      if (phase === 'prompt') continue
      const { total, perModel } = cache.bytes()
      end = { tokens: at, held: total - perModel, ...neededBytes(cache) }
      if (!worst || ratio(end) > ratio(worst)) worst = end
    }
  } finally {
    cache.dispose()
    prepared.dispose()
  }
  if (!worst || !end) throw new Error(`${composition} was not looked at`)
  return { composition, worst, end, within: ratio(worst) <= SHARE, measuredAt: new Date().toISOString() }
}

/** Rows of the last run, each replaced where it was measured again. */
async function merged(): Promise<readonly Row[]> {
  if (only.length === 0) return measured
  const kept = JSON.parse(await readFile(here('results/resident.json'), 'utf8')) as { readonly rows: readonly Row[] }
  const again = new Map(measured.map((row) => [row.composition, row]))
  const known = new Set(kept.rows.map(({ composition }) => composition))
  const fresh = measured.filter(({ composition }) => !known.has(composition))
  return [...kept.rows.map((row) => again.get(row.composition) ?? row), ...fresh]
}
const rows = await merged()
const outside = measured.filter((row) => !row.within)
const kib = (bytes: number) => (bytes / 1024).toFixed(1)
const times = ({ held, needed }: Held) => (held / needed).toFixed(2)
const share = ({ held, needed, pages }: Held) => ((held - pages) / needed).toFixed(2)
for (const row of measured)
  process.stdout.write(`${row.within ? '' : 'OUTSIDE '}${share(row.worst)} ${times(row.end)} ${row.composition}\n`)
await keep('resident', { prompt: PROMPT, decoded: DECODED, share: SHARE, rows })
await writeFile(
  new URL('../../../docs/resident-bytes.md', import.meta.url),
  [
    '# Resident bytes',
    '',
    'What compositions that drop rows really hold, beside what their live rows need. Made by',
    '`npm run -s pnpm -- --filter @kvloom/bench resident`; do not edit by hand.',
    '',
    `The tiny model, a prompt of ${PROMPT} tokens, then ${DECODED} decoded ones, wasm backend; every composition of the [matrix](./matrix) that drops or`,
    'rewrites rows, and a few that drop one at every step. Looked at after every step.',
    '',
    '*Needed* is the sum over live rows of what a row takes in the form it is stored in, with the state, indexes and fits that the',
    'method keeps. *Held* is everything in `bytes()` but tables of the model. *Worst* is the largest ratio of all steps of held bytes,',
    `less one page a part and lane, to needed ones; it stays below ${SHARE}.`,
    '',
    ...table(
      [
        'composition',
        'worst',
        'at tokens',
        'held there',
        'needed there',
        'held at the end',
        'needed',
        'ratio at the end',
      ],
      rows.map(({ composition, worst, end, within }) => [
        `\`${composition}\``,
        `${share(worst)}${within ? '' : ' (outside)'}`,
        String(worst.tokens),
        `${kib(worst.held)} KiB`,
        `${kib(worst.needed)} KiB`,
        `${kib(end.held)} KiB`,
        `${kib(end.needed)} KiB`,
        times(end),
      ]),
    ),
    '',
  ].join('\n'),
)
process.stdout.write(`${measured.length} compositions, ${outside.length} outside.\n`)
if (outside.length > 0) process.exitCode = 1
