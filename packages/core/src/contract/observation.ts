/** What a stage may ask to see. */
import type { Tensor } from '@tensorflow/tfjs-core'

/** What a stage may ask to see when it acts. Attention is given for every query head; a method averages over groups itself. */
export type Observation =
  /**
   * `[queryHeads, tokens]`: the attention that each stored token gets from the last n queries, or from all of this step, summed over
   * queries or the largest.
   */
  | { readonly of: 'attention'; readonly queries: 'all' | number; readonly reduce: 'sum' | 'max' }
  /**
   * `[queryHeads, last, keyDim]`: the last queries, after RoPE. The cache remembers them and counts them as state; `last: Infinity` asks
   * for the whole prompt.
   */
  | { readonly of: 'queries'; readonly last: number }
  /**
   * `[queryHeads, tokens]`: the largest share of its attention that any token of the scorer's `replay` gave to each stored token, 0 where no
   * pass measured it. The softmax is over the measured tokens, the pass's sinks and its own tokens.
   */
  | { readonly of: 'replay' }
  /** `[last, hidden]`: what the layer's projections were given for the last n tokens: hidden states after the layer's norm. */
  | { readonly of: 'hidden'; readonly last: number }
  /**
   * `[kvHeads, tokens, dim]`: every stored row, decoded where it is sealed. Keys come after RoPE, at their original positions, on whichever
   * side they are stored.
   */
  | { readonly of: 'keys' | 'values' }
  /** `[kvHeads, tokens]` int32: the token of every stored row. */
  | { readonly of: 'tokenIds' }
  /** `[kvHeads, tokens]` int32: original position of every stored row. */
  | { readonly of: 'positions' }

export type Needs = Readonly<Record<string, Observation>>

export type Observed<N extends Needs = Needs> = { readonly [K in keyof N]: Tensor }
