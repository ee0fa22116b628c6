/**
 * Ada-KV: heads differ in how widely they attend, so a layer's budget is spent where the scores are largest over all of its
 * heads, instead of equally. Every head keeps a floor, so that none is starved by scores of another scale.
 *
 *   N = tokens an equal budget gives each of H heads; the best trunc(N · safeguard) of every head are safe,
 *   the other rows of H · N go to the largest scores over all heads
 *
 * Y. Feng, J. Lv, Y. Cao, X. Xie, S. K. Zhou, "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient
 * LLM Inference" (arXiv 2407.11550), section 3. What differs: the floor and its default are those of NVIDIA/kvpress (the
 * authors mix counts, `round(n · (1 - α) + b · α)`, which may miss the budget by rounding); what the scorer promises, such as the
 * window of SnapKV, stays in every head, at least one row; heads really hold fewer rows (kvpress masks them).
 */
import { defineMethod, dropping, type HeadShare, type Stage, shareOut } from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import { adaKvOptions } from './options'

/** Shares a layer's budget out over its KV heads, by any scorer's scores: `compose(snapkv({ keep: 0.25 }), adaKv())`. */
export const adaKv = defineMethod(
  {
    name: 'ada-kv',
    title: 'Ada-KV',
    summary: "Spends a layer's budget where scores are largest over all KV heads; wraps any scorer.",
    paper: {
      title: 'Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference',
      link: 'https://arxiv.org/abs/2407.11550',
    },
    chunkInvariant: true,
  },
  adaKvOptions,
  (options) => {
    const stage: Stage<'budget'> = {
      kind: 'budget',
      id: 'ada-kv',
      options,
      when: 'promptEnd',
      facts: { ragged: true },
      // The scorer before it says when tokens are dropped.
      accepts: (space) => dropping(space, 'head', 'promptEnd'),
      bind: () => ({
        ragged: true,
        over: options.over,
        counts: (scores, _, heads) => countsOf(scores, heads, options.safeguard),
      }),
    }
    return { stages: [stage] }
  },
)

/**
 * How many rows each head keeps, as many in all as the scorer would keep; of equal scores the lower head, then the earlier token.
 * After an earlier prompt heads hold different numbers of rows.
 * @param scores per head `[1, tokens]`, finite where a row may stay
 */
async function countsOf(
  scores: readonly Tensor[],
  heads: readonly HeadShare[],
  safeguard: number,
): Promise<readonly number[]> {
  if (heads.every(({ uniform, rows }) => uniform >= rows)) return heads.map(({ rows }) => rows)
  // A head that the scorer leaves alone keeps all it has.
  const safe = heads.map(({ uniform, rows, floor }) =>
    uniform >= rows ? rows : Math.max(floor, Math.trunc(uniform * safeguard)),
  )
  return shareOut(
    scores,
    safe,
    heads.reduce((sum, { uniform }) => sum + uniform, 0),
  )
}
