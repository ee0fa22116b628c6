/** On a real model: the ledger is the growth of tfjs's memory at every step, and what is sealed never changes. */

import { compose, type KVCache, type KVCompressor, openCache, ready } from '@kvloom/core'
import { loadModel, type Model, prefill, resolveModel } from '@kvloom/engine'
import { memory } from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { kivi, l2Norm, none, snapkv, streamingLlm, tova } from './index'

const PROMPT = 150
const DECODED = 300
/** Of 32 rows, so that 300 tokens flush nine times. */
const quantizer = (bits: number) => kivi({ bits, residual: 32 })

const COMPOSITIONS: Readonly<Record<string, () => KVCompressor>> = {
  'none, f16': () => none(),
  'none, f32': () => none({ store: 'f32' }),
  'kivi, 2 bits': () => quantizer(2),
  'kivi, 4 bits': () => quantizer(4),
  'streaming-llm': () => streamingLlm({ recent: 100 }),
  'streaming-llm, once': () => streamingLlm({ keep: 0.5 }),
  'l2-norm': () => l2Norm({ keep: 0.5 }),
  snapkv: () => snapkv({ keep: 0.5 }),
  'tova, fixed cache': () => tova({ cache: 100 }),
  'tova, once': () => tova({ keep: 0.5 }),
}
const MIXES = Object.fromEntries(
  Object.entries(COMPOSITIONS)
    // What drops rows one by one at every step does not go before blocks.
    .filter(([name]) => !/^(none|kivi|tova, fixed)/.test(name))
    .map(([name, make]) => [`${name} + kivi, 2 bits`, () => compose(make(), quantizer(2))]),
)

let model: Model

beforeAll(async () => {
  model = await loadModel((await resolveModel('tiny')).path, { backend: 'wasm' })
})
afterAll(() => model.dispose())

/** Bytes of every sealed row of layer 1, by the tensor that holds it and its place. */
async function sealed(cache: KVCache): Promise<Map<string, string>> {
  const rows = new Map<string, string>()
  for (const lane of cache.segments(1))
    for (const part of ['keys', 'values'] as const)
      for (const segment of lane[part])
        if (segment.zone === 'sealed')
          for (const [name, tensor] of segment.tensors.entries()) {
            const data = await tensor.data()
            const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
            const whole = segment.rows === segment.capacity ? bytes.toString('base64') : ''
            if (whole) rows.set(`${part} ${name} ${tensor.id}`, whole)
          }
  return rows
}

describe.each(Object.entries({ ...COMPOSITIONS, ...MIXES }))('%s', (_, make) => {
  it(`counts every byte over ${PROMPT} prompt and ${DECODED} decoded tokens`, async () => {
    const ids = model.tokenizer.encode('The whale and the sea. '.repeat(30)).slice(0, PROMPT)
    const before = memory()
    const cache = openCache(model.shape, ready(make()))
    const check = () => expect(cache.bytes().total).toBe(memory().numBytes - before.numBytes)
    await prefill(model, cache, ids, { logits: 'none', chunk: 64 })
    check()
    const first = new Map<string, string>()
    for (let i = 0; i < DECODED; i++) {
      await model.forward(cache, Int32Array.of(97 + (i % 26)), 'decode', { logits: 'none' })
      check()
      if (i % 50 === 0) for (const [key, bytes] of await sealed(cache)) if (!first.has(key)) first.set(key, bytes)
    }
    const last = await sealed(cache)
    const kept = [...last].filter(([key]) => first.has(key))
    for (const [key, bytes] of kept) expect(bytes).toBe(first.get(key))
    if (make().stages.some((stage) => stage.kind === 'quantize')) expect(kept.length).toBeGreaterThan(2)
    expect(cache.tokensSeen).toBe(PROMPT + DECODED)
    cache.dispose()
    expect(memory().numBytes).toBe(before.numBytes)
    expect(memory().numTensors).toBe(before.numTensors)
  })
})
