/** Toys for the tests of stages: a synthetic model, and one stage of every kind that loses nothing. */
import * as tf from '@tensorflow/tfjs-core'
import { expect } from 'vitest'
import type { HostTensor, KVCompressor, ModelShape, Quantizer, Recall, Space, Stage } from '../contract'
import { definePick, defineQuantizer } from '../define'
import { defineTransform } from '../define-transform'
import { evenWindows } from '../merge-zones'
import { integer, oneOf } from '../options'

export const model: ModelShape = {
  name: 'synthetic',
  layers: 4,
  queryHeads: 4,
  kvHeads: 2,
  keyDim: 16,
  valueDim: 24,
  contextLength: 4096,
  rope: { dim: 16, frequencies: Float64Array.from({ length: 8 }, (_, j) => 10000 ** (-j / 8)), attentionFactor: 1 },
  attentionScale: 0.25,
  fingerprint: 'synthetic',
}
export const dense: KVCompressor = {
  card: { name: 'dense', title: '', summary: '', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

/** A quantizer that stores rows as they are, with keys before or after RoPE. */
export const exact = defineQuantizer({
  name: 'exact',
  options: {
    block: integer({ default: 8, min: 1, doc: '' }),
    merged: oneOf(['no', 'yes'], { default: 'no', doc: '' }),
  },
  rope: 'pre',
  store: () => 'f32',
  window: ({ block }) => evenWindows({ sinks: 2, block, drain: 'all' }),
  quantizer: ({ merged }, site): Quantizer => ({
    layout: { kind: 'custom', fields: { rows: { counts: 'payload' } } },
    rowsPerGroup: 1,
    theoreticalBitsPerValue: 32,
    ...(merged === 'yes' ? { mergedHeads: true } : {}),
    encode: (rows) => {
      expect(rows.shape.filter((_, i) => i !== 1)).toEqual(
        merged === 'yes' ? [1, site.heads * site.dim] : [site.heads, site.dim],
      )
      return { rows: tf.add(rows, 0) }
    },
    decode: ({ rows }) => tf.clone(rows as tf.Tensor),
  }),
})

export const random = (seed: number, shape: number[]): HostTensor => {
  let state = seed
  const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => {
    state = (state * 1103515245 + 12345) % 2147483648
    return state / 2147483648 - 0.5
  })
  return { shape, values }
}

/** A predictor with a fixed map, which loses nothing in front of `exact`. It leaves out layer 0, which has nothing before it. */
export const guess = (keep: boolean): KVCompressor => ({
  card: { name: 'guess', title: '', summary: '', chunkInvariant: true },
  stages: (['keys', 'values'] as const).map(
    (part): Stage<'predict'> => ({
      kind: 'predict',
      id: 'guess',
      options: null,
      when: 'seal',
      on: { part, except: [0] },
      accepts: (space) => ({
        ...space,
        heads: 'all',
        rope: part === 'keys' ? 'pre' : 'none',
        latent: true,
        randomAccess: false,
      }),
      bind: (site) => {
        const width = site.heads * site.dim
        const keyWidth = model.kvHeads * model.keyDim
        const inputs = part === 'keys' ? width : keyWidth + width
        const map = site.hold(random(site.layer + 7, [inputs, width]))
        return {
          sources:
            part === 'keys'
              ? [{ back: 1, part }]
              : [
                  { back: 0, part: 'keys' },
                  { back: 1, part },
                ],
          keepReconstruction: keep,
          predict: (sources) => tf.matMul(tf.concat([...sources], 1) as tf.Tensor2D, map as tf.Tensor2D),
        }
      },
    }),
  ),
})

const rotation = (n: number): HostTensor => {
  const values = new Float32Array(n * n)
  for (let i = 0; i < n; i++) values[i * n + ((i + 3) % n)] = i % 2 ? -1 : 1
  return { shape: [1, n, n], values }
}
/** A transform that permutes the channels of all heads and changes signs. It loses nothing, and the heads share its latents. */
export const permute = defineTransform({
  name: 'permute',
  options: { block: integer({ default: 8, min: 1, doc: '' }) },
  rope: 'pre',
  mergesHeads: true,
  store: () => 'f32',
  window: ({ block }) => evenWindows({ sinks: 1, block, drain: 'all' }),
  transform: (_, site) => {
    const width = site.heads * site.dim
    const map = site.hold(rotation(width))
    return {
      fitted: 'model',
      needs: {},
      main: { heads: 1, dim: width },
      encode: ([rows]) => ({
        main: tf.expandDims(
          tf.matMul(
            tf.reshape(tf.transpose(rows as tf.Tensor, [1, 0, 2]), [-1, width]) as tf.Tensor2D,
            tf.transpose(tf.squeeze(map, [0])) as tf.Tensor2D,
          ),
          0,
        ),
      }),
      decoder: () => ({ up: map }),
    }
  },
})
/** A transform that reverses the channels of each head. It takes keys after RoPE and is fitted on the prompt. */
export const reverse = defineTransform({
  name: 'reverse',
  options: {},
  when: 'promptEnd',
  rope: 'post',
  store: () => 'f32',
  window: () => evenWindows({ recent: 4, block: 1, drain: 'all' }),
  transform: (_, site) => ({
    fitted: 'prompt',
    needs: { queries: { of: 'queries', last: 4 } },
    main: { heads: site.heads, dim: site.dim },
    fitOnline: (rows, seen) => {
      expect(rows.shape[0]).toBe(site.heads)
      expect(seen['queries']?.shape).toEqual([4, 4, 16])
      const n = site.dim
      return { up: tf.tile(tf.reverse(tf.expandDims(tf.eye(n), 0), 2), [site.heads, 1, 1]) }
    },
    encode: ([rows]) => ({ main: tf.reverse(rows as tf.Tensor, 2) }),
    decoder: ({ up }) => ({ up: up as tf.Tensor }),
  }),
})
/**
 * A transform of layer pairs (0, 1) and (2, 3). It stores the first layer's rows and a factor for each layer; every third row stays exact,
 * since it would be wrong for the second layer.
 */
export const pairs = defineTransform({
  name: 'pairs',
  options: {},
  rope: 'free',
  layerGroup: 2,
  store: () => 'f32',
  window: () => evenWindows({ block: 6 }),
  transform: (_, site) => ({
    fitted: 'model',
    needs: {},
    main: { heads: site.heads, dim: site.dim },
    layers: [site.layer - (site.layer % 2), site.layer - (site.layer % 2) + 1],
    encode: ([a, b]) => {
      const [heads = 0, n = 0] = a?.shape ?? []
      const ones = tf.ones([heads, n])
      const same = tf.equal(tf.sum(tf.abs(tf.sub(a as tf.Tensor, b as tf.Tensor)), 2), 0)
      return {
        main: tf.mul(a as tf.Tensor, 2),
        scale: [tf.mul(ones, 0.5), tf.mul(ones, 0.5)],
        exempt: tf.cast(tf.logicalNot(same), 'float32'),
      }
    },
    decoder: () => ({}),
  }),
})
export const share = (map: readonly number[]): KVCompressor => ({
  card: { name: 'share', title: '', summary: '', chunkInvariant: true },
  stages: [
    {
      kind: 'model',
      id: 'share',
      options: { map },
      when: 'load',
      accepts: (space: Space) => space,
      bind: () => ({ sourceLayer: (layer: number) => map[layer] ?? layer }),
    },
  ],
})
export const recall = (o: {
  tier: 'device' | 'host'
  budget: number
  top?: boolean
  falling?: boolean
}): KVCompressor => ({
  card: { name: 'recall', title: '', summary: '', chunkInvariant: true },
  stages: [
    {
      kind: 'recall',
      id: 'recall',
      options: o,
      when: 'read',
      facts: { tier: o.tier },
      accepts: (space: Space) => space,
      bind: (): Recall => ({
        tier: o.tier,
        sinks: 2,
        every: 5,
        budget: o.budget,
        index: async (keys) => ({ keys: tf.add(keys, 0) }),
        // Selects exactly the rows with the largest dot products.
        select: async (queries, blocks, _, count) => {
          const best = tf.tidy(() => {
            const heads = blocks[0]?.['keys']?.shape[0] ?? 1
            const keys = tf.concat(
              blocks.map((b) => b['keys'] as tf.Tensor3D),
              1,
            )
            const byHead = tf.reshape(queries, [heads, (queries.shape[0] ?? 0) / heads, -1])
            const scores = tf.matMul(byHead, tf.transpose(keys, [0, 2, 1]))
            return tf.topk(tf.reshape(scores, [queries.shape[0] ?? 0, -1]), count).indices
          })
          const chosen = (await best.array()) as number[][]
          best.dispose()
          return tf.tensor2d(
            chosen.map((r) => [...r].sort((a, b) => (o.falling ? b - a : a - b))),
            [chosen.length, count],
            'int32',
          )
        },
      }),
    },
  ],
})
export const oldest = definePick({
  name: 'oldest',
  options: { size: integer({ default: 20, min: 1, doc: '' }) },
  when: 'room',
  tokenSets: 'model',
  by: 'positions',
  pick: ({ size }) => ({
    needs: {},
    count: (tokens, incoming) => Math.min(tokens, size - incoming),
    chunkLimit: size - 2,
    positions: 'slot',
    keep: (tokens, count) => [
      { start: 0, end: 2 },
      { start: tokens - count + 2, end: tokens },
    ],
  }),
})
