// Help for tests: 'model' stages made of a function, one that makes heads narrower, and the logits of a short text.
import { type KVCache, type KVCompressor, type ModelWeights, openCache, ready } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import type { Model } from '../model'
import { prefill } from '../prefill'

/** Ids of a short text for models of 131 tokens. */
export const ids = Int32Array.from({ length: 21 }, (_, i) => (i * 37 + 5) % 131)
/** Every row, in f32. */
export const exact: KVCompressor = {
  card: { name: 'exact', title: 'Exact', summary: 'Every row, in f32.', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

/** A compressor of one 'model' stage. */
export const stage = (transform: (weights: ModelWeights) => ModelWeights, onLayers?: number[]): KVCompressor => ({
  ...exact,
  stages: [
    {
      kind: 'model',
      id: 'changer',
      options: null,
      when: 'load',
      ...(onLayers ? { on: { layers: onLayers } } : {}),
      accepts: (space) => space,
      bind: () => ({ transform }),
    },
  ],
})

/** Keeps the first channels of every head of 16: keys 12, rotated by frequencies of no scheme, values 10; another logit scale. */
export const narrow = (weights: ModelWeights): ModelWeights => {
  const { shape } = weights
  const [keyDim, valueDim] = [12, 10]
  return {
    shape: {
      ...shape,
      keyDim,
      valueDim,
      rope: { dim: 12, frequencies: Float64Array.of(0.9, 0.31, 0.1, 0.07, 0.011, 1e-3), attentionFactor: 1 },
      attentionScale: 0.2,
      fingerprint: `${shape.fingerprint}+narrow`,
    },
    names: () => weights.names(),
    async get(name) {
      const whole = await weights.get(name)
      const part = /attention\.(query|key|value|output)$/.exec(name)?.[1]
      if (!part) return whole
      const dim = part === 'query' || part === 'key' ? keyDim : valueDim
      const cut = tf.tidy(() => {
        const rows = part === 'output' ? tf.transpose(whole) : whole
        const heads = tf.reshape(rows, [-1, 16, rows.shape[1]!])
        const kept = tf.reshape(tf.slice(heads, [0, 0, 0], [-1, dim, -1]), [-1, rows.shape[1]!])
        return part === 'output' ? tf.transpose(kept) : kept
      })
      whole.dispose()
      return cut
    },
  }
}

/** Logits of all positions; `cache` is freed. */
export const logitsOf = async (
  model: Model,
  cache: KVCache = openCache(model.shape, ready(exact)),
): Promise<Float32Array> => {
  const known = ids.map((id) => id % model.config.vocabSize)
  const all = new Float32Array(ids.length * model.config.vocabSize)
  const visit = async (from: number, part: tf.Tensor) =>
    all.set((await part.data()) as Float32Array, from * model.config.vocabSize)
  await prefill(model, cache, known, { chunk: 8, logits: { visit } })
  cache.dispose()
  return all
}
