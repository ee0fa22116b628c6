/** Makes small synthetic models, and rows for them from a seed. */
import type { ModelShape } from '@kvloom/core'
import { reshape, type Tensor, tensor3d, tidy } from '@tensorflow/tfjs-core'

interface Dims {
  readonly queryHeads: number
  readonly kvHeads: number
  readonly keyDim: number
  readonly valueDim: number
  /** How many layers it has. Default 2. */
  readonly layers?: number
}

/** A model with rotary positions. */
export function syntheticModel({ queryHeads, kvHeads, keyDim, valueDim, layers = 2 }: Dims): ModelShape {
  const deep = layers === 2 ? '' : `, ${layers} layers`
  return {
    name: `${queryHeads}q ${kvHeads}kv, dims ${keyDim}/${valueDim}${deep}`,
    layers,
    queryHeads,
    kvHeads,
    keyDim,
    valueDim,
    contextLength: 4096,
    rope: {
      dim: keyDim,
      frequencies: Float64Array.from({ length: keyDim / 2 }, (_, j) => 10000 ** ((-2 * j) / keyDim)),
      attentionFactor: 1,
    },
    attentionScale: 1 / Math.sqrt(keyDim),
    fingerprint: `synthetic-${queryHeads}-${kvHeads}-${keyDim}-${valueDim}-${layers}`,
  }
}

/** Grouped queries, head dims 32, 64 and 80, and keys wider than values. */
export const SHAPES: readonly ModelShape[] = shapesOf(2)

/** The same shapes with more layers, for methods that join or share layers. */
export function shapesOf(layers: number): readonly ModelShape[] {
  return [
    syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 32, valueDim: 32, layers }),
    syntheticModel({ queryHeads: 2, kvHeads: 2, keyDim: 64, valueDim: 32, layers }),
    syntheticModel({ queryHeads: 3, kvHeads: 1, keyDim: 80, valueDim: 80, layers }),
  ]
}

/** Queries, keys and values of one layer, before RoPE. The caller disposes of them. */
export interface StepRows {
  readonly queries: Tensor
  readonly keys: Tensor
  readonly values: Tensor
  /** What the layer's projections were given, `[count, 16]`: no model made it. */
  readonly hidden: Tensor
}

/** The rows of tokens `from ... from + count` in the sequence that `seed` names. They are the same however the sequence is cut. */
export function rowsAt(model: ModelShape, layer: number, from: number, count: number, seed: number): StepRows {
  const rows = (part: number, heads: number, dim: number): Tensor => {
    const data = new Float32Array(heads * count * dim)
    for (let head = 0; head < heads; head++)
      for (let i = 0; i < count; i++) {
        const random = seeded(((((seed * 31 + layer) * 31 + part) * 31 + head) * 4099 + from + i) >>> 0)
        // Some tokens matter more than others, to some heads more than to others: their keys are larger.
        const size = part === 1 ? (0.5 + 2 * random()) * (1 + 2 * head) : 1
        for (let c = 0; c < dim; c++) data[(head * count + i) * dim + c] = size * (2 * random() - 1)
      }
    return tensor3d(data, [heads, count, dim])
  }
  return {
    queries: rows(0, model.queryHeads, model.keyDim),
    keys: rows(1, model.kvHeads, model.keyDim),
    values: rows(2, model.kvHeads, model.valueDim),
    hidden: tidy(() => reshape(rows(3, 1, 16), [count, 16])),
  }
}

/** The ids of tokens `from ... from + count`, all below 8, for methods that look at them. */
export const tokensAt = (from: number, count: number): Int32Array =>
  Int32Array.from({ length: count }, (_, i) => Math.floor(8 * seeded(from + i)()))

/** Draws numbers in [0, 1) from a seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}
