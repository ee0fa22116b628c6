// Step time of caches of a fixed size, early and late in a sequence: a decoded token after 1,024 tokens seen and after 30,000, on the
// shapes of the tiny model with random rows. What a cache of a fixed size does in a step must not grow with what it has seen.
//
//   node dist/long-run.js [--only streaming,tova]
import { openCache } from '@kvloom/core'
import { loadModel, resolveModel } from '@kvloom/engine'
import { composition } from '@kvloom/methods'
import { randomNormal, type Tensor } from '@tensorflow/tfjs-core'
import { measureFlags } from './command-line'
import { interleave, keep } from './harness'

const EARLY = 1024
const LATE = 30_000
const ROUNDS = 400
const FEED = 32
/** Step time late over early, at most. */
const MOST = 1.2

const COMPOSITIONS = [
  'streaming-llm(recent=256)',
  'streaming-llm(recent=256, positions=original)',
  'streaming-llm(recent=256)+kivi(bits=2, residual=32)',
  'streaming-llm(recent=256)+higgs(bits=4, group=32, sinks=4, block=32)',
  'streaming-llm(recent=256)+block-formats(format=q8_0)',
  'tova(cache=64)',
  'tova(cache=256)',
  'tova(cache=256)+block-formats(format=q8_0)',
  'freqkv(window=256, keep=0.5)',
]

const { only } = measureFlags()
const { path } = await resolveModel('tiny', { sources: ['tiny'] })
const model = await loadModel(path, { backend: 'wasm' })
// Only the cache is timed; rows are drawn once and handed in again and again.
const shape = { ...model.shape, contextLength: 1 << 20 }
const drawn = (n: number) => ({
  queries: randomNormal([shape.queryHeads, n, shape.keyDim], 0, 1, 'float32', 1),
  keys: randomNormal([shape.kvHeads, n, shape.keyDim], 0, 1, 'float32', 2),
  values: randomNormal([shape.kvHeads, n, shape.valueDim], 0, 1, 'float32', 3),
})
const [one, some] = [drawn(1), drawn(FEED)]

async function step(cache: ReturnType<typeof openCache>, n: number): Promise<void> {
  const now: { queries: Tensor; keys: Tensor; values: Tensor } = n === 1 ? one : some
  cache.begin(new Int32Array(n), 'decode')
  for (let layer = 0; layer < shape.layers; layer++) (await cache.attend(layer, now)).dispose()
  await cache.commit()
}

/** A cache that has seen so many tokens. */
async function after(text: string, tokens: number) {
  const cache = openCache(shape, composition(text))
  while (cache.tokensSeen < tokens) {
    const n = cache.canTake(Math.min(FEED, tokens - cache.tokensSeen))
    await step(cache, n === FEED ? FEED : 1)
  }
  return cache
}

const rows = []
for (const text of COMPOSITIONS.filter((c) => only.every((part) => c.includes(part)))) {
  const [early, late] = [await after(text, EARLY), await after(text, LATE)]
  const timings = await interleave(
    [
      { name: `${EARLY} seen`, run: () => step(early, 1) },
      { name: `${LATE} seen`, run: () => step(late, 1) },
    ],
    ROUNDS,
    40,
  )
  const ratio = timings[1]?.ratioToFirst ?? Number.NaN
  rows.push({ composition: text, ratio, timings, bytes: [early.bytes().total, late.bytes().total] })
  process.stdout.write(
    `${ratio <= MOST ? '' : 'GROWS '}${ratio.toFixed(2)}  ${timings.map((t) => `${t.median.toFixed(2)} ms`).join(', ')}  ${text}\n`,
  )
  early.dispose()
  late.dispose()
}
if (only.length === 0)
  await keep('long-run', {
    what: `Begin, attend of all layers and commit of one decoded token, medians of ${ROUNDS} interleaved rounds; ratio of paired rounds.`,
    most: MOST,
    rows,
  })
model.dispose()
if (rows.some(({ ratio }) => !(ratio <= MOST))) process.exitCode = 1
