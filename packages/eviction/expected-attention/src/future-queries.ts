/** What queries will come: the prompt's own, turned from where they stood to the mean rotation of the positions to come. */
import type { Rope } from '@kvloom/core'
import { rope as rotate } from '@kvloom/kernels'
import {
  div,
  matMul,
  mean,
  reshape,
  slice,
  stack,
  sub,
  type Tensor,
  type Tensor2D,
  tensor1d,
  tensor2d,
  transpose,
} from '@tensorflow/tfjs-core'

/** A Gaussian per query head. */
export interface FutureQueries {
  /** `[queryHeads, keyDim]` */
  readonly mean: Tensor
  /** `[queryHeads, keyDim, keyDim]`, divided by the number of queries; null when not asked for. */
  readonly covariance: Tensor | null
}

/**
 * Mean and covariance of `R̄ q̃` over the queries from `sinks` on, where q̃ is a query before RoPE and R̄ the mean rotation of
 * the `future` positions that follow. Runs inside tf.tidy.
 *
 * @param queries `[queryHeads, n, keyDim]` after RoPE, of n positions in a row; where they begin makes no difference
 * @param rope null where nothing is rotated
 * @param options `sinks`: the first so many of these queries do not count; fewer than n
 */
export function futureQueries(
  queries: Tensor,
  rope: Rope | null,
  { sinks, future, covariance }: { readonly sinks: number; readonly future: number; readonly covariance: boolean },
): FutureQueries {
  const [queryHeads = 0, n = 0, dim = 0] = queries.shape
  const turned = slice(rope ? turn(queries, rope, future) : queries, [0, sinks, 0], [queryHeads, n - sinks, dim])
  const center = mean(turned, 1, true) // [queryHeads, 1, keyDim]
  const means = reshape(center, [queryHeads, dim])
  if (!covariance) return { mean: means, covariance: null }
  const centred = sub(turned, center)
  const perHead = Array.from({ length: queryHeads }, (_, head) => {
    const x = reshape(slice(centred, [head, 0, 0], [1, -1, -1]), [n - sinks, dim]) as Tensor2D
    return div(matMul(transpose(x), x), n - sinks) // [keyDim, keyDim]
  })
  return { mean: means, covariance: stack(perHead) }
}

/**
 * R̄ R(t)⁻¹ q of every query: pair j is multiplied by the mean over f of e^{i (n + f - t) θ_j}. One rotation whose cosines and
 * sines are those means; an attention factor in q and in the future queries cancels.
 */
function turn(queries: Tensor, rope: Rope, future: number): Tensor {
  const [, n = 0] = queries.shape
  const pairs = rope.dim / 2
  const [cos, sin] = [new Float32Array(n * pairs), new Float32Array(n * pairs)]
  for (let j = 0; j < pairs; j++) {
    const angle = rope.frequencies[j] ?? 0
    let [real, imaginary] = [0, 0]
    for (let f = 0; f < future; f++) {
      real += Math.cos((n + f) * angle) / future
      imaginary += Math.sin((n + f) * angle) / future
    }
    for (let t = 0; t < n; t++) {
      const [c, s] = [Math.cos(t * angle), Math.sin(t * angle)]
      cos[t * pairs + j] = real * c + imaginary * s
      sin[t * pairs + j] = imaginary * c - real * s
    }
  }
  const tables = { cos: tensor2d(cos, [n, pairs]), sin: tensor2d(sin, [n, pairs]) }
  return rotate(
    queries,
    tables,
    tensor1d(
      Int32Array.from({ length: n }, (_, t) => t),
      'int32',
    ),
  )
}
