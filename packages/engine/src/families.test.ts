// Every family and variant that the engine claims, against transformers 4.56 (tools/engine-fixtures/families.py).
import { ContextOverflow, type KVCache, openCache, ready } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { describe, expect, it } from 'vitest'
import { engineBackends } from './backend'
import { loadModel, type Model } from './model'
import { prefill } from './prefill'
import { argmax } from './sampling'
import { exact } from './testing/changed-model'
import { difference } from './testing/golden'
import { type Toy, toyFixture, toyFolder, toyIds } from './testing/toys'

/** Largest logit difference over the largest logit: float32 with sums in another order, over three layers. */
const LOGITS = 3e-6

const { cases, tokens, logits } = await toyFixture<Toy>('transformers')

/** Logits of all positions, in chunks, and the tokens that follow greedily; the cache is freed. */
async function run(model: Model, ids: Int32Array, following: number): Promise<{ all: Float32Array; greedy: number[] }> {
  const { vocabSize } = model.config
  const cache = openCache(model.shape, ready(exact))
  const all = new Float32Array(ids.length * vocabSize)
  const visit = async (from: number, part: tf.Tensor): Promise<void> => {
    all.set((await part.data()) as Float32Array, from * vocabSize)
  }
  await prefill(model, cache, ids, { chunk: 7, logits: { visit } })
  const greedy = await follow(model, cache, all.subarray(-vocabSize), following)
  cache.dispose()
  return { all, greedy }
}

async function follow(model: Model, cache: KVCache, last: Float32Array, count: number): Promise<number[]> {
  const found: number[] = []
  for (let row = last; found.length < count; ) {
    const next = argmax(row)
    found.push(next)
    const step = await model.forward(cache, Int32Array.of(next), 'decode')
    if (!step) break
    row = (await step.data()) as Float32Array
    step.dispose()
  }
  return found
}

describe('as transformers computes it', () => {
  it('covers every family, activation, bias, kind of RoPE and window', () => {
    const has = (part: string): number => cases.filter(({ name }) => name.includes(part)).length
    for (const part of [
      'llama',
      'mistral',
      'qwen2',
      'qwen3',
      'gelu',
      'relu',
      'bias',
      'yarn',
      'linear',
      'window',
      'tied',
      'shards',
      'base',
    ])
      expect(has(part), part).toBeGreaterThan(1)
    expect(cases.length).toBeGreaterThan(90)
  })

  it.each(cases)('$name', async (toy) => {
    const model = await loadModel({ folder: toyFolder(toy) })
    const { vocabSize } = model.config
    const ids = toyIds(tokens, vocabSize)
    const expected = logits(toy.name)
    expect(model.shape.contextLength).toBe(toy.contextLength)
    const seen = Math.min(tokens, toy.contextLength)
    const { all, greedy } = await run(model, ids.slice(0, seen), toy.greedy?.length ?? 0)
    expect(difference(all, expected.subarray(0, seen * vocabSize)).relative).toBeLessThan(LOGITS)
    expect(greedy).toEqual(toy.greedy ?? [])
    if (seen < tokens) {
      // Beyond the window full attention is another computation, so it is refused.
      const cache = openCache(model.shape, ready(exact))
      await expect(prefill(model, cache, ids)).rejects.toBeInstanceOf(ContextOverflow)
      cache.dispose()
    }
    model.dispose()
    expect(tf.memory().numTensors).toBe(0)
  })

  it.each(engineBackends)('with every activation on %s', async (backend) => {
    const activations = cases.filter(({ config, name }) => 'hidden_act' in config && name.startsWith('llama, '))
    expect(activations.length).toBeGreaterThan(9)
    for (const toy of activations) {
      const model = await loadModel({ folder: toyFolder(toy) }, { backend })
      const { all } = await run(model, toyIds(tokens, model.config.vocabSize), 0)
      expect(difference(all, logits(toy.name)).relative, toy.name).toBeLessThan(LOGITS)
      model.dispose()
    }
  })
})
