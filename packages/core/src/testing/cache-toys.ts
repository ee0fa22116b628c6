/** Toys for the cache's tests: a synthetic model, quantizers, scorers and a pick, and a way to feed caches. */
import { affineDecode, affineEncode } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { KVCache, KVCompressor, ModelShape, Phase } from '../contract'
import { definePick, defineQuantizer, defineScorer } from '../define'
import { evenWindows, NO_SEALING } from '../merge-zones'
import { fraction, integer } from '../options'

export const model: ModelShape = {
  name: 'synthetic',
  layers: 2,
  queryHeads: 4,
  kvHeads: 2,
  keyDim: 32,
  valueDim: 32,
  contextLength: 4096,
  rope: { dim: 32, frequencies: Float64Array.from({ length: 16 }, (_, j) => 10000 ** (-j / 16)), attentionFactor: 1 },
  attentionScale: 1 / Math.sqrt(32),
  fingerprint: 'synthetic',
}
export const dense: KVCompressor = {
  card: { name: 'dense', title: 'dense', summary: '', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

/** A quantizer that has both forms: it seals keys in blocks along tokens, and values row by row. */
export const blocks = defineQuantizer({
  name: 'blocks',
  options: {
    block: integer({ default: 32, min: 32, doc: '' }),
    bits: integer({ default: 4, min: 1, max: 8, doc: '' }),
  },
  store: () => 'f32',
  window: ({ block }) => ({
    sinks: 0,
    keys: { recent: 0, block, drain: 'blocks' },
    values: { recent: block, block: 1, drain: 'blocks' },
  }),
  rowsPerGroup: (_, part) => (part === 'keys' ? 32 : 1),
  quantizer: ({ bits }, site) => {
    const layout = {
      kind: 'affine',
      bits,
      group: 32,
      along: site.part === 'keys' ? 'tokens' : 'channels',
      metadata: 'f16',
    } as const
    return {
      layout,
      rowsPerGroup: site.part === 'keys' ? 32 : 1,
      theoreticalBitsPerValue: bits + 1,
      encode: (rows) => ({ ...affineEncode(rows as tf.Tensor3D, layout) }),
      decode: (block, rows) =>
        affineDecode(block, layout, {
          heads: site.heads,
          rows,
          dim: site.dim,
        }),
    }
  },
})
/** A quantizer whose keys and values are sealed 16 rows at a time and can be dropped one by one. */
export const rows = defineQuantizer({
  name: 'rows',
  options: { bits: integer({ default: 4, min: 1, max: 8, doc: '' }) },
  store: () => 'f32',
  window: () => evenWindows({ sinks: 2, recent: 8, block: 16 }),
  quantizer: ({ bits }, site) => {
    const layout = { kind: 'affine', bits, group: 32, along: 'channels', metadata: 'f16' } as const
    return {
      layout,
      rowsPerGroup: 1,
      theoreticalBitsPerValue: bits + 1,
      encode: (given) => ({ ...affineEncode(given as tf.Tensor3D, layout) }),
      decode: (block, count) =>
        affineDecode(block, layout, {
          heads: site.heads,
          rows: count,
          dim: site.dim,
        }),
    }
  },
})
export const norms = defineScorer({
  name: 'norms',
  needs: { keys: { of: 'keys' } },
  score: ({ keys }) => tf.neg(tf.norm(keys, 2, -1)),
})
export const lastAttention = defineScorer({
  name: 'last',
  when: 'step',
  options: { cache: integer({ default: 40, min: 1, doc: '' }) },
  needs: { attention: { of: 'attention', queries: 1, reduce: 'sum' } },
  count: (tokens, { cache }) => Math.min(tokens, cache),
  score: ({ attention }) => tf.mean(attention, 0, true),
})
/** Sums the attention that a token has ever received, in a column. */
export const heavy = defineScorer({
  name: 'heavy',
  when: 'step',
  options: { cache: integer({ default: 40, min: 1, doc: '' }) },
  needs: { attention: { of: 'attention', queries: 'all', reduce: 'sum' } },
  columns: ['mass'],
  count: (tokens, { cache }) => Math.min(tokens, cache),
  score: ({ attention }, _, { columns }) => {
    const [heads = 0, rows = 0] = columns['mass']?.shape ?? []
    const mass = tf.add(columns['mass'] as tf.Tensor, tf.sum(tf.reshape(attention, [heads, -1, rows]), 1))
    return { scores: mass, columns: { mass } }
  },
})
export const recentOnly = definePick({
  name: 'recent',
  when: 'room',
  options: {
    sinks: integer({ default: 4, min: 0, doc: '' }),
    recent: integer({ default: 28, min: 1, doc: '' }),
    keep: fraction({ default: 1, doc: '' }),
  },
  window: ({ sinks }) => ({ ...NO_SEALING, sinks }),
  by: 'positions',
  pick: ({ sinks, recent }) => ({
    needs: {},
    positions: 'slot',
    chunkLimit: recent,
    count: (tokens, incoming) => Math.min(tokens, Math.max(sinks, sinks + recent - incoming)),
    keep: (tokens, count) => [
      { start: 0, end: sinks },
      { start: tokens - (count - sinks), end: tokens },
    ],
  }),
})

export const random = (shape: [number, number, number], seed: number): tf.Tensor3D =>
  tf.randomNormal(shape, 0, 1, 'float32', seed)
export const inputs = (n: number, seed: number, layer: number) => ({
  queries: random([model.queryHeads, n, 32], seed * 100 + layer * 10 + 1),
  keys: random([model.kvHeads, n, 32], seed * 100 + layer * 10 + 2),
  values: random([model.kvHeads, n, 32], seed * 100 + layer * 10 + 3),
})

/** Feeds chunks to a cache and returns the last output of layer 0. */
export async function feed(
  cache: KVCache,
  chunks: readonly number[],
  phase: (i: number) => Phase = () => 'decode',
  seed = 1,
): Promise<Float32Array> {
  let last: Float32Array = new Float32Array()
  for (const [i, n] of chunks.entries()) {
    cache.begin(new Int32Array(n), phase(i))
    for (let l = 0; l < model.layers; l++) {
      const now = inputs(n, seed + i, l)
      const out = await cache.attend(l, now)
      if (l === 0) last = (await out.data()) as Float32Array
      tf.dispose([now.queries, now.keys, now.values, out])
    }
    await cache.commit()
  }
  return last
}

/** A saved cache. */
export async function bytesOf(cache: KVCache): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for await (const bytes of cache.serialize()) parts.push(bytes)
  return Buffer.concat(parts)
}
