/** Scores of one row of logits `[vocab]`, in float64 whatever the logits' own precision. Natural logarithms. */

/** Index of the largest number; the first one on ties. */
export function largestIndex(row: Float32Array): number {
  let best = 0
  let top = row[0] ?? Number.NEGATIVE_INFINITY
  for (let i = 1; i < row.length; i++) {
    const value = row[i] as number
    if (value > top) {
      top = value
      best = i
    }
  }
  return best
}

/** log(sum(exp(row))), shifted by the maximum so that nothing overflows. NaN or infinity in the row make the result non-finite. */
export function logSumExp(row: Float32Array): number {
  let top = Number.NEGATIVE_INFINITY
  for (let i = 0; i < row.length; i++) if ((row[i] as number) > top) top = row[i] as number
  let sum = 0
  for (let i = 0; i < row.length; i++) sum += Math.exp((row[i] as number) - top)
  return top + Math.log(sum)
}

/** -log p(target), in nats. */
export const negativeLogLikelihood = (row: Float32Array, normalizer: number, target: number): number =>
  normalizer - (row[target] ?? Number.NaN)

/**
 * KL(reference || candidate) in nats over the whole vocabulary: `sum p (log p - log q)`.
 * @param referenceNormalizer logSumExp of `reference`. @param candidateNormalizer logSumExp of `candidate`.
 */
export function klDivergence(
  reference: Float32Array,
  referenceNormalizer: number,
  candidate: Float32Array,
  candidateNormalizer: number,
): number {
  let sum = 0
  for (let i = 0; i < reference.length; i++) {
    const logP = (reference[i] as number) - referenceNormalizer
    // exp(-60) = 9e-27: below what the sum of 1e5 such terms can show in a float64 result.
    if (logP > -60) sum += Math.exp(logP) * (logP - ((candidate[i] as number) - candidateNormalizer))
  }
  // Rounding may leave a number just below zero where both are equal.
  return Math.max(0, sum)
}
