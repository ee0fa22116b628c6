import fs from 'node:fs/promises'
import {
  type AnyStage,
  ContextOverflow,
  defineScorer,
  fraction,
  type KVCompressor,
  openCache,
  type ReplayPass,
  type ReplayTexts,
  ready,
} from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { loadModel } from './model'
import { prefill } from './prefill'
import { replayContext } from './replay'
import { exact, ids } from './testing/changed-model'
import { type RandomLlama, writeRandomLlama } from './testing/random-llama'

/** Keeps half of what a pass attends to most, and remembers what it saw. */
const watching = (passes: (tokens: Int32Array) => readonly ReplayPass[]) => {
  const seen: { shares: Float32Array; hidden: Float32Array; keys: Float32Array }[] = []
  const scorer = defineScorer({
    name: 'watching',
    options: { keep: fraction({ default: 0.5, doc: '' }) },
    needs: { shares: { of: 'replay' }, states: { of: 'hidden', last: 64 }, keys: { of: 'keys' } },
    replay: ({ tokens }) => passes(tokens),
    score: ({ shares, states, keys }) => {
      const [a, b, c] = [shares, states, keys].map((t) => t.dataSync<'float32'>())
      if (a && b && c) seen.push({ shares: a, hidden: b, keys: c })
      return tf.max(tf.reshape(shares, [2, 3, -1]), 1)
    },
  })()
  const compressor: KVCompressor = { ...exact, stages: [...exact.stages, ...scorer.stages] as AnyStage[] }
  return { seen, compressor }
}

describe('a scorer that asks the model to read its context again', () => {
  let made: RandomLlama
  beforeAll(async () => {
    made = await writeRandomLlama({ model_type: 'llama', max_position_embeddings: 64 })
  })
  afterAll(() => fs.rm(made.folder, { recursive: true }))

  it('sees what the repeated context attends to, and the hidden states that keys are made of', async () => {
    const model = await loadModel(made.folder)
    const before = tf.memory().numTensors
    const { seen, compressor } = watching((tokens) => [{ tokens: tokens.slice(), from: 0, to: tokens.length }])
    const cache = openCache(model.shape, ready(compressor))
    const logits = await prefill(model, cache, ids, { chunk: 8 })
    expect(cache.replay).toBeNull()
    expect(seen).toHaveLength(3)
    for (const { shares } of seen) {
      expect(shares).toHaveLength(6 * ids.length)
      expect(shares.every((share) => share > 0 && share < 1)).toBe(true)
    }
    for (let layer = 0; layer < 3; layer++) expect(cache.census(layer).keys.exact).toBe(Math.trunc(ids.length / 2))
    // At position 0 nothing is rotated: the key of head 0 is the first rows of the key projection times the hidden state.
    const weight = made.weights.get('layers.1.attention.key') ?? new Float32Array(0)
    const { hidden, keys } = seen[1] ?? { hidden: new Float32Array(0), keys: new Float32Array(0) }
    for (let row = 0; row < 8; row++) {
      let key = 0
      for (let i = 0; i < 48; i++) key += (weight[row * 48 + i] ?? 0) * (hidden[i] ?? 0)
      expect(keys[row]).toBeCloseTo(key, 4)
    }
    logits?.dispose()
    cache.dispose()
    expect(tf.memory().numTensors).toBe(before)
    model.dispose()
  })

  it('encodes texts without a start token, and knows how a message ends', async () => {
    const asked: unknown[] = []
    const finish = vi.fn(async () => {})
    const passes = ({ encode, beforeAnswer }: ReplayTexts) => {
      asked.push([...encode('again')], beforeAnswer())
      return []
    }
    const tokenizer = {
      encode: (_: string, options?: { readonly bos?: boolean }) =>
        Int32Array.from(options?.bos === false ? [1] : [0, 1]),
      chatTemplate: 'a template',
      applyChatTemplate: ([message]: readonly { readonly content: string }[]) => `<user>${message?.content}<answer>`,
    }
    await replayContext({ tokenizer } as never, { replay: { passes, finish } } as never)
    expect(asked).toEqual([[1], '<answer>'])
    expect(finish).toHaveBeenCalledOnce()
  })

  it('leaves a cache that waits when a pass does not fit, and goes on once it is finished', async () => {
    const model = await loadModel(made.folder)
    const before = tf.memory().numTensors
    const { compressor } = watching(() => [{ tokens: new Int32Array(50), from: 0, to: 20 }])
    const cache = openCache(model.shape, ready(compressor))
    await expect(prefill(model, cache, ids)).rejects.toThrow(ContextOverflow)
    expect(cache.census(0).keys.exact).toBe(ids.length)
    await cache.replay?.finish()
    ;(await model.forward(cache, [1], 'decode'))?.dispose()
    cache.dispose()
    expect(tf.memory().numTensors).toBe(before)
    model.dispose()
  })
})
