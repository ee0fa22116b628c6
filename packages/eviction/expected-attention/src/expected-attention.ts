/**
 * Expected Attention: queries of a layer are close to Gaussian, so the attention that tokens will get from queries not seen
 * yet has a closed form. Mean and covariance are those of the prompt's queries before RoPE, rotated by the mean rotation of
 * the positions to come; a token counts by its expected attention times the length of its value.
 *
 *   E[exp(q · k / √d)] = exp(μ · k / √d + kᵀ Σ k / 2d),   a = softmax of the exponents,   score = (mean of a over the group + ε) ‖v‖
 *
 * A. Devoto, M. Jeblick, S. Jégou, "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries
 * Distribution" (arXiv 2510.00636), section 3. What differs: as in the authors' NVIDIA/kvpress, and the queries' statistics are taken
 * from the queries after RoPE, turned back (`future-queries.ts`), not from hidden states.
 */
import { defineScorer, perKvHead } from '@kvloom/core'
import {
  add,
  concat,
  matMul,
  mul,
  norm,
  reshape,
  slice,
  softmax,
  stack,
  sum,
  type Tensor,
  type Tensor2D,
  zeros,
} from '@tensorflow/tfjs-core'
import { type FutureQueries, futureQueries } from './future-queries'
import { expectedAttentionOptions } from './options'

/** Keeps the tokens that queries to come are expected to attend to most, and the first `sinks` tokens. */
export const expectedAttention = defineScorer({
  name: 'expected-attention',
  title: 'Expected Attention',
  summary: 'Keeps what queries to come should attend to, from the Gaussian of those seen.',
  paper: {
    title: 'Expected Attention: KV Cache Compression by Estimating Attention from Future Queries Distribution',
    link: 'https://arxiv.org/abs/2510.00636',
  },
  options: expectedAttentionOptions,
  needs: {
    queries: { of: 'queries', last: Number.POSITIVE_INFINITY },
    keys: { of: 'keys' },
    values: { of: 'values' },
  },
  // Sinks stay, also where keep · tokens is less than them.
  protect: ({ sinks }) => ({ first: sinks }),
  score({ queries, keys, values }, { future, sinks, covariance, valueNorm, epsilon }, { site, now }) {
    const [kvHeads = 0, tokens = 0, keyDim = 0] = keys.shape
    if (tokens <= sinks) return zeros([kvHeads, tokens]) // all stay, see protect
    // The queries are this prompt's; it may follow another one on the same cache.
    const start = now.tokensSeen - (queries.shape[1] ?? 0)
    const gaussian = futureQueries(queries, site.model.rope, {
      sinks: Math.max(0, sinks - start),
      future,
      covariance,
    })
    const rest = slice(keys, [0, sinks, 0], [kvHeads, tokens - sinks, keyDim])
    const attention = softmax(exponents(rest, gaussian, site.model.attentionScale)) // [queryHeads, rest]
    const expected = perKvHead(attention, kvHeads) // [kvHeads, rest]
    const lengths = norm(slice(values, [0, sinks, 0], [kvHeads, tokens - sinks, -1]), 2, 2) // [kvHeads, rest]
    const scores = valueNorm ? mul(add(expected, epsilon), lengths) : expected
    return concat([zeros([kvHeads, sinks]), scores], 1) // [kvHeads, tokens]; the sinks stay, see protect
  },
})

/** Logarithm of the expected exp(scale · q · k), `[queryHeads, tokens]`. */
function exponents(keys: Tensor, { mean, covariance }: FutureQueries, scale: number): Tensor {
  const [kvHeads = 0, tokens = 0, keyDim = 0] = keys.shape
  const [queryHeads = 0] = mean.shape
  return stack(
    Array.from({ length: queryHeads }, (_, head) => {
      const kvHead = Math.floor((head * kvHeads) / queryHeads)
      const k = reshape(slice(keys, [kvHead, 0, 0], [1, -1, -1]), [tokens, keyDim]) as Tensor2D
      const expected = mul(matMul(k, reshape(slice(mean, [head, 0], [1, keyDim]), [keyDim, 1])), scale)
      if (!covariance) return reshape(expected, [tokens])
      const spread = reshape(slice(covariance, [head, 0, 0], [1, -1, -1]), [keyDim, keyDim]) as Tensor2D
      const quadratic = mul(sum(mul(matMul(k, spread), k), 1, true), (scale * scale) / 2)
      return reshape(add(expected, quadratic), [tokens])
    }),
  )
}
