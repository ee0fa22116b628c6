// Whole decode step of SmolLM2-135M (Q4_1 file) at a context of 512 tokens, one thread: packed weights and own kernels
// against the same model with f32 weights and tfjs ops.
import { openCache, ready } from '@kvloom/core'
import { loadModel, prefill, resolveModel } from '@kvloom/engine'
import { kivi } from '@kvloom/kivi'
import { none } from '@kvloom/none'
import { interleave, keep } from './harness'
import { plainLlama } from './plain-llama'

const name = process.argv[2] ?? 'smollm2-135m-instruct'
const context = Number(process.argv[3] ?? 512)
const rounds = Number(process.argv[4] ?? 24)

const { path } = await resolveModel(name)
const model = await loadModel(path, { backend: 'wasm' })
const ids = Int32Array.from({ length: context }, (_, i) => (i * 7919) % model.config.vocabSize)
const compositions = { 'none(f16)': none(), 'none(f32)': none({ store: 'f32' }), 'kivi-2': kivi({ bits: 2 }) }

const candidates = []
for (const [label, compressor] of Object.entries(compositions)) {
  const cache = openCache(model.shape, ready(compressor))
  const started = performance.now()
  await prefill(model, cache, ids, { logits: 'none' })
  process.stderr.write(`${label}: prefill ${(context / ((performance.now() - started) / 1000)).toFixed(0)} tokens/s\n`)
  candidates.push({
    name: `kvloom, ${label}`,
    async run() {
      const logits = await model.forward(cache, Int32Array.of(42), 'decode')
      await logits?.data()
      logits?.dispose()
    },
  })
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
await keep('decode-step', {
  what: `One decoded token from context ${context} on (the context grows by one a round), ${name}, wasm, one thread; milliseconds for the whole step.`,
  model: name,
  context,
  timings,
})
