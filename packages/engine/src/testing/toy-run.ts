// Help for tests: what a toy computes.
import { type KVCache, openCache, ready } from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { Model } from '../model'
import { prefill } from '../prefill'
import { argmax } from '../sampling'
import { exact } from './changed-model'

/** Logits `[tokens, vocab]` of all positions, the prompt in chunks of 7, and the tokens that follow greedily. */
export async function runToy(
  model: Model,
  ids: Int32Array,
  following: number,
): Promise<{ all: Float32Array; greedy: number[] }> {
  const { vocabSize } = model.config
  const cache = openCache(model.shape, ready(exact))
  const all = new Float32Array(ids.length * vocabSize)
  const visit = async (from: number, part: Tensor): Promise<void> => {
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
