/** Attention of a prompt, tile by tile: never more than a few rows of it at once. */
import {
  add,
  addN,
  concat,
  div,
  matMul,
  mul,
  reshape,
  slice,
  softmax,
  sum,
  type Tensor,
  type Tensor2D,
  tensor2d,
  tidy,
  transpose,
} from '@tensorflow/tfjs-core'
import type { AttentionSums } from './profile'

/** A logit whose exponential is 0. */
const HIDDEN = -1e30

/** Queries of a tile: with 32,768 keys its attention takes 16 MB a head. */
const TILE = 128

/**
 * Causal attention of one KV head, averaged over its query heads and summed over queries, in tiles.
 *
 * @param queries `[group, queries, keyDim]` after RoPE, of the newest tokens: tokens that came before the prompt have none
 * @param keys `[1, tokens, keyDim]` after RoPE
 * @param widths windows to sum within
 */
export function attentionSums(queries: Tensor, keys: Tensor, scale: number, widths: readonly number[]): AttentionSums {
  const tokens = keys.shape[1] ?? 0
  const count = Math.min(tokens, queries.shape[1] ?? 0)
  const all = new Float64Array(tokens)
  const within = new Map(widths.map((width) => [width, new Float64Array(tokens)]))
  for (let from = tokens - count; from < tokens; from += TILE) {
    const end = Math.min(tokens, from + TILE)
    const first = from - (tokens - (queries.shape[1] ?? 0))
    const tile = tidy(() => sumsOfTile(queries, first, keys, scale, widths, from, end)) // [1 + widths, end]
    const sums = tile.dataSync<'float32'>()
    tile.dispose()
    for (const [i, total] of [all, ...within.values()].entries())
      for (let token = 0; token < end; token++) total[token] = (total[token] ?? 0) + (sums[i * end + token] ?? 0)
  }
  return { queries: count, all, within }
}

/** Attention that tokens 0 … end - 1 get from those `from … end - 1`, whose queries begin at `first`: all of it, then within each width. */
function sumsOfTile(
  queries: Tensor,
  first: number,
  keys: Tensor,
  scale: number,
  widths: readonly number[],
  from: number,
  end: number,
): Tensor {
  const [group = 0, , dim = 0] = queries.shape
  const rows = end - from
  /** `[rows, end]` of what holds for a token that many positions before a query. */
  const byAge = (value: (age: number) => number): Tensor => {
    const values = new Float32Array(rows * end)
    for (let row = 0; row < rows; row++)
      for (let token = 0; token < end; token++) values[row * end + token] = value(from + row - token)
    return tensor2d(values, [rows, end])
  }
  const hidden = byAge((age) => (age < 0 ? HIDDEN : 0))
  const seen = mul(transpose(reshape(slice(keys, [0, 0, 0], [1, end, dim]), [end, dim])), scale) as Tensor2D // [dim, end]
  const perHead = Array.from({ length: group }, (_, head) => {
    const q = reshape(slice(queries, [head, first, 0], [1, rows, dim]), [rows, dim]) as Tensor2D
    return softmax(add(matMul(q, seen), hidden))
  })
  const attention = div(addN(perHead), group)
  const near = widths.map((width) =>
    sum(
      mul(
        attention,
        byAge((age) => (age < width ? 1 : 0)),
      ),
      0,
      true,
    ),
  )
  return concat([sum(attention, 0, true), ...near])
}
