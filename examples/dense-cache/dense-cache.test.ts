/** The engine writes the same text with the plainest cache as with the real one. */
import { type KVCompressor, openCache } from '@kvloom/core'
import { generateAll, loadModel, resolveModel } from '@kvloom/engine'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { DenseCache } from './dense-cache'

const exact: KVCompressor = {
  card: { name: 'exact', title: 'Exact', summary: 'Every row, in f32.', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

let model: Awaited<ReturnType<typeof loadModel>>
beforeAll(async () => {
  model = await loadModel((await resolveModel('tiny')).path)
})
afterAll(() => model.dispose())

it('generates the same text, and holds the same rows', async () => {
  const prompt = model.tokenizer.encode('The passkey is 48213. Remember it. '.repeat(4))
  const plain = new DenseCache(model.shape)
  const real = openCache(model.shape, exact)
  const texts = []
  for (const cache of [plain, real]) texts.push((await generateAll(model, cache, prompt, { maxNewTokens: 20 })).text)
  expect(texts[0]).toContain('passkey')
  expect(texts[0]).toBe(texts[1])
  for (let layer = 0; layer < model.shape.layers; layer++) {
    const held = await Promise.all([plain, real].map((cache) => cache.materialize(layer)))
    expect(held[0]?.keys.shape).toEqual(held[1]?.keys.shape)
    expect(held[0]?.positions).toEqual(held[1]?.positions)
    for (const { keys, values } of held) {
      keys.dispose()
      values.dispose()
    }
  }
  plain.dispose()
  real.dispose()
})
