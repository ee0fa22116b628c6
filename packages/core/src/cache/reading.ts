/** What attention reads: a lane's rows, the queries that read them, and the step's own rows. */
import type * as tf from '@tensorflow/tfjs-core'
import type { Part } from '../contract'
import type { Rows } from './rows/rows'

/** What attention uses of a lane. */
export interface Readable {
  readonly shape: {
    readonly heads: readonly number[]
    readonly keyDim: number
    readonly valueDim: number
    readonly attentionScale: number
  }
  readonly keys: Rows
  readonly values: Rows
  /** How many rows are stored. */
  readonly rows: number
  /** How far the next rows move down, because rows before them were dropped and positions are slots. */
  readonly shift: number
}

/** The step's own rows: keys that are rotated already, and values. */
export interface OwnRows {
  readonly keys: tf.Tensor
  readonly values: tf.Tensor
  readonly n: number
}

/** What attention needs beside a lane. */
export interface Reading {
  /** The rotated queries `[lane queryHeads, n, keyDim]`, once for every shift that rows have, and which of these variants reads rows of a shift. */
  readonly variants: readonly tf.Tensor[]
  readonly variantOf: (shift: number) => number
  /** The step's own rows where they are not stored yet, else null. */
  readonly own: OwnRows | null
  /** How many of the last stored rows are the step's own; 0 where they are not stored yet. */
  readonly stored: number
  /** int32 `[heads, rows + own.n]`, 1 for every live row; null while all are live. */
  readonly live: tf.Tensor | null
  /** For keys that are stored before RoPE: the tables, and the position of every row `[heads or 1, rows + own.n]`. Null for others. */
  readonly rotation: { readonly cos: tf.Tensor; readonly sin: tf.Tensor; readonly positions: tf.Tensor } | null
  readonly prediction: (part: Part) => tf.Tensor2D | null
  /** For each query head the rows that it reads, ascending, of the stored ones and the step's own. All are read when it is absent. */
  readonly lists?: readonly Int32Array[]
  /** The ranges of stored rows to read. All are read when it is absent. */
  readonly ranges?: readonly (readonly [number, number])[]
  /**
   * Rows that were fetched from a host tier, to be read beside the ranges. They are decoded, with keys on the side on which they are stored
   * and `positions` `[heads, n]`, and `live` of those that were not dropped, null while all live.
   */
  readonly fetched?: {
    readonly keys: tf.Tensor
    readonly values: tf.Tensor
    readonly positions: tf.Tensor | null
    readonly live: tf.Tensor | null
  }
}

/** Rows that are attended to together, since they have one form in each part. */
export interface Run {
  readonly from: number
  readonly rows: number
  /** Whether these are the step's own rows, which are stored already. */
  readonly own: boolean
}

export const DENSE = { layout: { kind: 'dense', store: 'f32' }, from: 0 } as const
