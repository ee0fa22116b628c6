// Whole decode step of SmolLM2-135M (Q4_1 file) behind 1,024 tokens, one thread: caches without compression, methods beside them, and the same model with
// f32 weights and tfjs ops. All caches are filled first and then take a step each in turn, so that what the machine does meanwhile hits all alike.
//
// What methods learn is fitted once and kept beside the models.
//
//   node dist/decode-step.js [MODEL] [CONTEXT] [ROUNDS] [NAME OF THE RESULT]
import { openCache } from '@kvloom/core'
import { loadModel, prefill, resolveModel } from '@kvloom/engine'
import { prepareComposition } from '@kvloom/eval'
import { composition as compressorOf } from '@kvloom/methods'
import { decodeCandidate } from './decode-candidate'
import { type Candidate, interleave, keep } from './harness'
import { plainLlama } from './plain-llama'

const name = process.argv[2] ?? 'smollm2-135m-instruct'
const context = Number(process.argv[3] ?? 1024)
const rounds = Number(process.argv[4] ?? 24)
const result = process.argv[5] ?? 'decode-step'

/** Signposts learned without gradients take as long to read, and no pass back through the model to learn. */
const COMPOSITIONS = [
  'none',
  'none(store=f32)',
  'kivi(bits=2)',
  'block-formats(format=q8_0)',
  'block-formats(format=q4_0)',
  'coupled-quantization(channels=4, bits=8, sensitivity=none)',
  'kvquant(bits=3, sensitivity=none)',
  'decoquant(bits=4)',
  'snapkv+kvcrush',
  'kvzip',
  'compress-kv-heads',
  'recalkv(allocation=uniform)',
]
const CALIBRATION = { sequences: 2, tokens: 256 }

const { path } = await resolveModel(name)
const model = await loadModel(path, { backend: 'wasm' })
const ids = Int32Array.from({ length: context }, (_, i) => (i * 7919) % model.config.vocabSize)
const candidates: Candidate[] = []
const bytes: Record<string, number> = {}
for (const composition of COMPOSITIONS) {
  const prepared = await prepareComposition({ model, compressor: compressorOf(composition), data: CALIBRATION })
  const cache = openCache(prepared.model.shape, prepared.ready)
  const started = performance.now()
  const logits = await prefill(prepared.model, cache, ids, { logits: 'none' })
  logits?.dispose()
  const perSecond = context / ((performance.now() - started) / 1000)
  process.stderr.write(`${composition}: prefill ${perSecond.toFixed(0)} tokens/s\n`)
  bytes[composition] = cache.bytes().total
  candidates.push(decodeCandidate(composition, prepared.model, cache))
}
const plain = await plainLlama(model)
plain.fill(context)
candidates.push({
  name: 'tfjs ops, f32 weights',
  async run() {
    const logits = await plain.step(42)
    await logits.data()
    logits.dispose()
  },
})
const timings = await interleave(candidates, rounds)
await keep(result, {
  what: `One decoded token from context ${context} on (the context grows by one a round), ${name}, wasm, one thread; milliseconds for the whole step.`,
  model: name,
  context,
  bytes,
  timings,
})
