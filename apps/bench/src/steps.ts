// A decode step behind 4,096 tokens with every family of methods, on the tiny model: all caches are filled first and then take a step
// each in turn, so that what the machine does meanwhile hits all alike. Ratios to the cache without compression are the result.
//
//   node dist/steps.js [CONTEXT] [ROUNDS] [NAME OF THE RESULT]
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openCache, ready } from '@kvloom/core'
import { loadModel, resolveModel } from '@kvloom/engine'
import { prepareComposition } from '@kvloom/eval'
import { composition as compressorOf } from '@kvloom/methods'
import { decodeCandidate } from './decode-candidate'
import { type Candidate, interleave, keep } from './harness'

const context = Number(process.argv[2] ?? 4096)
const rounds = Number(process.argv[3] ?? 40)
const name = process.argv[4] ?? 'steps'

const COMPOSITIONS = [
  'none',
  'kivi(bits=2)',
  'higgs(bits=2, group=32)',
  'coupled-quantization(channels=4, bits=8)',
  'tova(cache=1024)',
  'streaming-llm(recent=1020)+kivi(bits=2)',
  'l2-norm(when=step, keep=0.5)',
  'clusterkv(budget=512, skipLayers=[0])',
  'lorc(rank=32)',
  'aqua-kv(bits=2)',
  'freqkv(window=1024, keep=0.5)',
  'fastgen',
]
const CALIBRATION = { sequences: 2, tokens: 256 }
/** Tokens of a step of the prompt. */
const CHUNK = 256

const { path } = await resolveModel('tiny', { sources: ['tiny'] })
const model = await loadModel(path, { backend: 'wasm' })
const text = await readFile(join(path, '..', 'text', 'sample.txt'), 'utf8')
const sample = model.tokenizer.encodeFirst(text, 2048, { special: false })
const ids = Int32Array.from({ length: context }, (_, i) => sample[i % sample.length] ?? 0)
const cacheDir = await mkdtemp(join(tmpdir(), 'kvloom-steps-'))
const candidates: Candidate[] = []
const bytes: Record<string, number> = {}
for (const composition of COMPOSITIONS) {
  const compressor = compressorOf(composition)
  const prepared = await prepareComposition({ model, compressor, data: CALIBRATION, cacheDir })
  // Angles of RoPE go on beyond the tokens that the model was trained for; what it says there does not matter here.
  const shape = { ...prepared.model.shape, contextLength: 2 * context }
  const cache = openCache(shape, ready(compressor, prepared.artifacts))
  for (let at = 0; at < context; ) {
    const n = cache.canTake(Math.min(CHUNK, context - at))
    const phase = at + n === context ? 'promptEnd' : 'prompt'
    await prepared.model.forward(cache, ids.subarray(at, at + n), phase, { logits: 'none' })
    at += n
  }
  bytes[composition] = cache.bytes().total
  process.stderr.write(`${composition}: ${context} tokens are in\n`)
  candidates.push(decodeCandidate(composition, prepared.model, cache))
}
const timings = await interleave(candidates, rounds)
await rm(cacheDir, { recursive: true, force: true })
await keep(name, {
  what: `One decoded token from context ${context} on (the context grows by one a round), the tiny model (4 layers, 2 KV heads of 32 channels), wasm, one thread; milliseconds for the whole step.`,
  context,
  bytes,
  timings,
})
