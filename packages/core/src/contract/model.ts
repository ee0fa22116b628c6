/** What a cache and a method must know of a model. */
import type { Tensor } from '@tensorflow/tfjs-core'

/** Rotary embedding as data: half-split pairs (j, j + dim/2). */
export interface Rope {
  /** Rotated channels; fewer than keyDim means partial rotary. */
  readonly dim: number
  /** Angle per position of each pair, `dim / 2` numbers, scaling variants already applied. */
  readonly frequencies: Float64Array
  /** YaRN / LongRoPE attention factor multiplied into cos and sin; 1 otherwise. */
  readonly attentionFactor: number
}

/** What a cache must know of a model. */
export interface ModelShape {
  readonly name: string
  readonly layers: number
  readonly queryHeads: number
  readonly kvHeads: number
  readonly keyDim: number
  readonly valueDim: number
  readonly contextLength: number
  /** null: the model does not rotate (or keys come rotated already). */
  readonly rope: Rope | null
  /** Multiplies q . k, normally 1 / sqrt(keyDim). */
  readonly attentionScale: number
  /** Identifies weights for artifacts. */
  readonly fingerprint: string
  /** Ids of the `model` stages whose transform these weights went through. A cache refuses a compressor whose model stages are not here. */
  readonly transformedBy?: readonly string[]
}

/** Model weights by canonical name (`layers.3.attention.key`), `[out, in]`; engines implement it for `model` stages. */
export interface ModelWeights {
  readonly shape: ModelShape
  names(): readonly string[]
  get(name: string): Promise<Tensor>
}
