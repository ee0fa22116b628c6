/** What attention reads: a lane's rows, the queries that read them, and this step's own rows. */
import type * as tf from '@tensorflow/tfjs-core'
import type { Part } from '../contract'
import type { Rows } from './rows/rows'

/** A lane, as attention sees it. */
export interface Readable {
  readonly shape: {
    readonly heads: readonly number[]
    readonly keyDim: number
    readonly valueDim: number
    readonly attentionScale: number
  }
  readonly keys: Rows
  readonly values: Rows
  /** Rows stored. */
  readonly rows: number
  /** Positions taken away from rows that come next. */
  readonly shift: number
}

/** This step's own rows: keys already rotated, values as they are. */
export interface OwnRows {
  readonly keys: tf.Tensor
  readonly values: tf.Tensor
  readonly n: number
}

/** What a lane's attention needs from outside. */
export interface Reading {
  /** Query variants, rotated, `[lane queryHeads, n, keyDim]`; which one reads rows of a shift. */
  readonly variants: readonly tf.Tensor[]
  readonly variantOf: (shift: number) => number
  /** This step's rows, where they are not stored yet. */
  readonly own: OwnRows | null
  /** How many of the last stored rows are the queries' own. */
  readonly stored: number
  /** int32 `[heads, rows + own.n]`, null while all live. */
  readonly live: tf.Tensor | null
  /** For keys stored before RoPE: tables, and the position of every row `[heads, rows + own.n]`. */
  readonly rotation: { readonly cos: tf.Tensor; readonly sin: tf.Tensor; readonly positions: tf.Tensor } | null
  readonly prediction: (part: Part) => tf.Tensor2D | null
  /** Ranges of stored rows to read; all when absent. */
  readonly ranges?: readonly (readonly [number, number])[]
  /** Rows fetched from a host tier, read beside the ranges: decoded, keys as stored, `positions` `[heads, n]`. */
  readonly fetched?: { readonly keys: tf.Tensor; readonly values: tf.Tensor; readonly positions: tf.Tensor | null }
}

/** Rows of one form per part, which are attended to together. */
export interface Run {
  readonly from: number
  readonly rows: number
  /** The queries' own rows, stored already. */
  readonly own: boolean
}

export const DENSE = { layout: { kind: 'dense', store: 'f32' }, from: 0 } as const
