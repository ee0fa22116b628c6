/**
 * LoRC's layer ranks from cumulative condition numbers, by a second-hand reading of the paper: that shallow layers keep more is
 * certain, the exact normalisation is not.
 *
 *   logCumulative[l] = sum over layers j >= l of log kappa(W_K^j) + log kappa(W_V^j)      errors of layer l pass through all of these
 *   depth[l] = (max - logCumulative[l]) / (max - min)                                     0 in the first layer, 1 in the last
 *   rank[l] = floor(maxRank · (1 - depth[l] · (1 - minRank / maxRank)) + 1/2)
 */
import type { Part } from '@kvloom/core'

/** Rank of the first and of the last layer. */
export interface RankRange {
  readonly max: number
  readonly min: number
}

export interface ProgressiveRanks {
  /** `[layers]`, falling: condition numbers are at least 1. */
  readonly logCumulative: Float64Array
  /** `[layers]` before rounding. */
  readonly real: Float64Array
  /** `[layers]`: the nearest of the grid, half up. */
  readonly ranks: Int32Array
}

/** Logarithms of the condition numbers of every layer's key and value weights, `[layers]` each. */
export type LogConditions = Readonly<Record<Part, ArrayLike<number>>>

/** What ranks may be: multiples of `multipleOf`, of which the largest is not above `full`. */
export interface RankGrid {
  readonly multipleOf: number
  readonly full: number
}
const WHOLE: RankGrid = { multipleOf: 1, full: Number.POSITIVE_INFINITY }

/** The nearest rank of a grid, half up. */
export function nearestRank(rank: number, { multipleOf, full }: RankGrid): number {
  const most = full === Number.POSITIVE_INFINITY ? full : multipleOf * Math.floor(full / multipleOf)
  return Math.min(most, Math.max(multipleOf, multipleOf * Math.floor(rank / multipleOf + 0.5)))
}

/** The ranks of all layers between `max` and `min`. Sums are of logarithms: the products would overflow in deep models. */
export function progressiveRanks(
  logConditions: LogConditions,
  { max, min }: RankRange,
  grid: RankGrid = WHOLE,
): ProgressiveRanks {
  const logCumulative = cumulative(logConditions)
  const real = depths(logCumulative).map((depth) => max * (1 - depth * (1 - min / max)))
  return { logCumulative, real, ranks: Int32Array.from(real, (rank) => nearestRank(rank, grid)) }
}

/** A last layer keeps at least so much, unless the mean is smaller. */
const LEAST = 8

/** The range with this mean rank: `max` in the first layer, or less where the last one would fall below 8. */
export function rangeOfMean(logConditions: LogConditions, mean: number, max: number): RankRange {
  const depth = depths(cumulative(logConditions))
  const share = depth.reduce((sum, x) => sum + x, 0) / depth.length
  if (share === 0) return { max: mean, min: mean } // one layer, or perfectly conditioned ones
  const least = Math.min(LEAST, mean)
  const min = (mean - max * (1 - share)) / share
  return min >= least ? { max, min } : { max: (mean - least * share) / (1 - share), min: least }
}

function cumulative({ keys, values }: LogConditions): Float64Array {
  const sums = new Float64Array(keys.length)
  let sum = 0
  for (let layer = keys.length - 1; layer >= 0; layer--) {
    sum += (keys[layer] ?? 0) + (values[layer] ?? 0)
    sums[layer] = sum
  }
  return sums
}

function depths(logCumulative: Float64Array): Float64Array {
  const largest = Math.max(...logCumulative)
  const span = largest - Math.min(...logCumulative)
  return logCumulative.map((x) => (span > 0 ? (largest - x) / span : 0))
}
