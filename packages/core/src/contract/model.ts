/** What a cache and a method must know of a model. */
import type { Tensor } from '@tensorflow/tfjs-core'

/** Rotary embedding as data. Channel j is paired with channel j + dim / 2. */
export interface Rope {
  /** How many channels are rotated. Fewer than `keyDim` means partial rotary. */
  readonly dim: number
  /** The angle that each pair turns by per position, `dim / 2` numbers, with scaling variants applied already. */
  readonly frequencies: Float64Array
  /** The attention factor of YaRN and LongRoPE, which is multiplied into cos and sin; 1 otherwise. */
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
  /** null when the model does not rotate, or keys come rotated already. */
  readonly rope: Rope | null
  /** Multiplies q . k, normally 1 / sqrt(keyDim). */
  readonly attentionScale: number
  /** Identifies weights for artifacts. */
  readonly fingerprint: string
  /** Ids of the `model` stages that these weights went through. A cache refuses a compressor with a transform of weights that is not among them. */
  readonly transformedBy?: readonly string[]
}

/** The weights of a model, `[out, in]` each, by canonical name (`layers.3.attention.key`). Engines implement it for `model` stages. */
export interface ModelWeights {
  readonly shape: ModelShape
  names(): readonly string[]
  get(name: string): Promise<Tensor>
}
