/** One budget for many heads: the rows go where the scores are largest. For budget stages. */
import { selectTop } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'

/**
 * Shares `total` rows out over heads: the `safe[h]` best rows of each head stay in any case, and the others go to the largest scores over
 * all heads; of equal scores to the lower head first, then to the earlier token.
 * @param scores per head `[1, tokens]`, -infinity for rows that are gone; heads may hold different numbers of rows
 * @returns how many rows each head keeps, `total` in all where that is at least all of `safe` and at most all rows
 */
export async function shareOut(
  scores: readonly tf.Tensor[],
  safe: readonly number[],
  total: number,
): Promise<readonly number[]> {
  /** The head of every score. */
  const owners = Int32Array.from(scores.flatMap((own, head) => new Array<number>(own.size).fill(head)))
  const all = new Float32Array(owners.length)
  let from = 0
  for (const [head, own] of scores.entries()) {
    all.set(await own.data<'float32'>(), from)
    for (const token of await bestOf(own, safe[head] ?? 0)) all[from + token] = Infinity
    from += own.size
  }
  const overHeads = tf.tensor2d(all, [1, all.length])
  const kept = await bestOf(overHeads, Math.min(total, all.length))
  overHeads.dispose()
  const counts = scores.map(() => 0)
  for (const at of kept) {
    const head = owners[at] ?? 0
    counts[head] = (counts[head] ?? 0) + 1
  }
  return counts
}

/** Ascending indices of the `count` largest of `[1, n]`. */
async function bestOf(scores: tf.Tensor, count: number): Promise<Int32Array> {
  const best = selectTop(scores, count)
  const indices = await best.data<'int32'>()
  best.dispose()
  return indices
}
