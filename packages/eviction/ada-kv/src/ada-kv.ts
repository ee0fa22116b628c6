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
import { defineMethod, dropping, type HeadShare, type Stage } from '@kvloom/core'
import { selectTop } from '@kvloom/kernels'
import { type Tensor, tensor2d } from '@tensorflow/tfjs-core'
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
  /** The head of every score. */
  const owners = Int32Array.from(scores.flatMap((own, head) => new Array<number>(own.size).fill(head)))
  const all = new Float32Array(owners.length)
  let from = 0
  for (const [head, own] of scores.entries()) {
    const { uniform = 0, rows = 0, floor = 0 } = heads[head] ?? {}
    all.set(await own.data<'float32'>(), from)
    // A head that the scorer leaves alone keeps all it has.
    const safe = uniform >= rows ? rows : Math.max(floor, Math.trunc(uniform * safeguard))
    for (const token of await bestOf(own, safe)) all[from + token] = Infinity
    from += own.size
  }
  const overHeads = tensor2d(all, [1, all.length])
  const kept = await bestOf(
    overHeads,
    heads.reduce((sum, { uniform }) => sum + uniform, 0),
  )
  overHeads.dispose()
  const counts = scores.map(() => 0)
  for (const at of kept) {
    const head = owners[at] ?? 0
    counts[head] = (counts[head] ?? 0) + 1
  }
  return counts
}

/** Ascending indices of the `count` largest of `[1, n]`. */
async function bestOf(scores: Tensor, count: number): Promise<Int32Array> {
  const best = selectTop(scores, count)
  const indices = await best.data<'int32'>()
  best.dispose()
  return indices
}
