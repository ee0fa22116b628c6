// Causal attention, backwards, by tiles of queries, so that no more than a tile times the tokens before it is in memory.
import type { ModelShape } from '@kvloom/core'
import { rope } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { type SequenceTables, tileRows } from './tables'

/**
 * With S = scale · q kᵀ and P = softmax(S): dV = Pᵀ dO, dS = P ∘ (dO Vᵀ - rowsum(P ∘ dO Vᵀ)).
 * All before RoPE: queries `[queryHeads, n, keyDim]`, keys `[kvHeads, n, keyDim]`, values `[kvHeads, n, valueDim]`; `output`
 * `[queryHeads, n, valueDim]` is the gradient at what attention returns.
 */
export function attentionGradient(
  { attentionScale, kvHeads, queryHeads }: ModelShape,
  { rotation, masks }: SequenceTables,
  queries: tf.Tensor,
  keys: tf.Tensor,
  values: tf.Tensor,
  output: tf.Tensor,
): { queries: tf.Tensor; keys: tf.Tensor; values: tf.Tensor } {
  const turn = (x: tf.Tensor, inverse: boolean): tf.Tensor =>
    rotation ? rope(x, rotation, rotation.positions, { inverse }) : x
  const scaled = tf.mul(turn(queries, false), attentionScale)
  const turned = turn(keys, false)
  const heads = Array.from({ length: queryHeads }, (_, head) => {
    const kvHead = Math.floor((head * kvHeads) / queryHeads)
    return headGradient(
      masks,
      headOf(scaled, head),
      headOf(turned, kvHead),
      headOf(values, kvHead),
      headOf(output, head),
    )
  })
  const group = queryHeads / kvHeads
  const perKvHead = (part: 'keys' | 'values'): tf.Tensor =>
    tf.stack(
      Array.from({ length: kvHeads }, (_, kvHead) =>
        sum(heads.slice(kvHead * group, (kvHead + 1) * group).map((head) => head[part])),
      ),
    )
  return {
    queries: turn(tf.mul(tf.stack(heads.map((head) => head.queries)), attentionScale), true),
    keys: turn(perKvHead('keys'), true),
    values: perKvHead('values'),
  }
}

type HeadGradients = { queries: tf.Tensor2D; keys: tf.Tensor2D; values: tf.Tensor2D }

/** One query head of it, after RoPE and scaling: q and k `[n, keyDim]`, v and the gradient at its output `[n, valueDim]`. */
function headGradient(
  masks: readonly tf.Tensor[],
  q: tf.Tensor2D,
  k: tf.Tensor2D,
  v: tf.Tensor2D,
  output: tf.Tensor2D,
): HeadGradients {
  const n = k.shape[0]
  return tf.tidy(() => {
    const kT = tf.transpose(k) // [keyDim, n]
    const vT = tf.transpose(v) // [valueDim, n]
    const tiles = masks.map((mask, tile) =>
      tf.tidy((): HeadGradients => {
        const [start, end] = [tile * tileRows, mask.shape[1] ?? 0]
        const qTile = rowsOf(q, start, end) // [rows, keyDim]
        const oTile = rowsOf(output, start, end) // [rows, valueDim]
        const p = tf.softmax(tf.add(tf.matMul(qTile, columnsOf(kT, end)), mask)) as tf.Tensor2D // [rows, end]
        const atP = tf.matMul(oTile, columnsOf(vT, end)) // [rows, end]
        const atS = tf.mul(p, tf.sub(atP, tf.sum(tf.mul(p, atP), 1, true))) as tf.Tensor2D // [rows, end]
        const allRows = (x: tf.Tensor2D): tf.Tensor2D =>
          tf.pad2d(x, [
            [0, n - end],
            [0, 0],
          ])
        return {
          queries: tf.matMul(atS, rowsOf(k, 0, end)),
          keys: allRows(tf.matMul(tf.transpose(atS), qTile)),
          values: allRows(tf.matMul(tf.transpose(p), oTile)),
        }
      }),
    )
    return {
      queries: tf.concat2d(
        tiles.map((tile) => tile.queries),
        0,
      ),
      keys: sum(tiles.map((tile) => tile.keys)),
      values: sum(tiles.map((tile) => tile.values)),
    }
  })
}

/** Sum of tensors of one shape, in their order. */
export const sum = <T extends tf.Tensor>(parts: readonly T[]): T => parts.reduce((total, part) => tf.add(total, part))

const headOf = (x: tf.Tensor, head: number): tf.Tensor2D => {
  const [, rows = 0, dim = 0] = x.shape
  return tf.reshape(tf.slice(x, [head, 0, 0], [1, -1, -1]), [rows, dim])
}
const rowsOf = (x: tf.Tensor2D, start: number, end: number): tf.Tensor2D => tf.slice(x, [start, 0], [end - start, -1])
const columnsOf = (x: tf.Tensor2D, end: number): tf.Tensor2D => tf.slice(x, [0, 0], [-1, end])
