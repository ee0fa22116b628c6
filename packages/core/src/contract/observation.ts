/** What a stage may ask to see. */
import type { Tensor } from '@tensorflow/tfjs-core'

/** What a stage may ask to see. Attention is over query heads, never pre-averaged. */
export type Observation =
  /** `[queryHeads, tokens]`: attention of the last n queries (or of all of this step) to each stored token, reduced over queries. */
  | { readonly of: 'attention'; readonly queries: 'all' | number; readonly reduce: 'sum' | 'max' }
  /** `[queryHeads, last, keyDim]` after RoPE, a counted ring; `last: Infinity` remembers the whole prompt. */
  | { readonly of: 'queries'; readonly last: number }
  /** `[kvHeads, tokens, dim]` as stored when asked (keys after RoPE): the exact window, else decoded. */
  | { readonly of: 'keys' | 'values' }
  /** `[kvHeads, tokens]` int32: the token of every stored row. */
  | { readonly of: 'tokenIds' }
  /** `[kvHeads, tokens]` int32: original position of every stored row. */
  | { readonly of: 'positions' }

export type Needs = Readonly<Record<string, Observation>>

export type Observed<N extends Needs = Needs> = { readonly [K in keyof N]: Tensor }
