// What the backward pass of attention needs of a sequence and not of its contents: angles and masks.
import type { ModelShape } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'

/** Query rows whose attention is in memory at a time. */
export const tileRows = 256

/** Cosines and sines of positions 0 … n - 1, and causal masks, for the sequence at hand. The caller's to dispose, by `disposeTables`. */
export interface SequenceTables {
  /** Null for a model that does not rotate. */
  readonly rotation: { readonly cos: tf.Tensor; readonly sin: tf.Tensor; readonly positions: tf.Tensor } | null
  /** Per tile of queries `[rows, end]`: 0 for what they see, -1e30 for what comes later. */
  readonly masks: readonly tf.Tensor[]
}

/** Tables of a sequence of n tokens. */
export function sequenceTables({ rope }: Pick<ModelShape, 'rope'>, n: number): SequenceTables {
  const masks = tilesOf(n, tileRows).map(({ start, end }) =>
    tf.tensor2d(
      Float32Array.from({ length: (end - start) * end }, (_, i) =>
        i % end <= start + Math.floor(i / end) ? 0 : -1e30,
      ),
      [end - start, end],
    ),
  )
  if (!rope) return { rotation: null, masks }
  const { frequencies, attentionFactor } = rope
  const pairs = frequencies.length
  const table = (wave: (angle: number) => number) =>
    tf.tensor2d(
      Float32Array.from(
        { length: n * pairs },
        (_, i) => wave(Math.floor(i / pairs) * (frequencies[i % pairs] ?? 0)) * attentionFactor,
      ),
      [n, pairs],
    )
  const positions = tf.tensor1d(
    Int32Array.from({ length: n }, (_, i) => i),
    'int32',
  )
  return { rotation: { cos: table(Math.cos), sin: table(Math.sin), positions }, masks }
}

/** Frees what `sequenceTables` made. */
export function disposeTables({ rotation, masks }: SequenceTables): void {
  tf.dispose([...masks, ...Object.values(rotation ?? {})])
}

/** Runs of at most `rows` of 0 … n - 1. */
export const tilesOf = (n: number, rows: number): { start: number; end: number }[] =>
  Array.from({ length: Math.ceil(n / rows) }, (_, i) => ({ start: i * rows, end: Math.min((i + 1) * rows, n) }))
