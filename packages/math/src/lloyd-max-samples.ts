/** Lloyd-Max on weighted samples of one variable: k-means on a line, with sorted samples and running sums (KVQuant's signposts). */
import { MathError, requireFinite, requireInteger } from './errors'
import { checkKmeans, kmeansPlusPlus } from './kmeans-start'
import type { ScalarQuantizer } from './lloyd-max'

export interface LloydMaxOfSamplesOptions {
  /** `[n]`, none negative. Default all 1. */
  readonly weights?: ArrayLike<number>
  /** Seed of the k-means++ starts. Default 0. */
  readonly seed?: number
  /** Starts by k-means++ besides the one from quantiles; the best result is returned. Default 4. */
  readonly restarts?: number
  /** Most steps of a start. Default 1000; it ends before when nothing moves. */
  readonly iterations?: number
}

/** Samples in rising order with running sums of w, w x, w x². */
interface Line {
  readonly x: Float64Array
  readonly w: Float64Array
  readonly wx: Float64Array
  readonly wxx: Float64Array
}

/**
 * The quantizer of `levels` levels with a (locally) least weighted mean squared error on `samples` `[n]`; a sample half-way
 * between two levels belongs to the lower. Levels may coincide when there are fewer different samples than levels.
 *
 * @throws MathError when n < levels, a number is not finite, or weights are negative, all zero or of another length
 */
export function lloydMaxOfSamples(
  samples: ArrayLike<number>,
  levels: number,
  options: LloydMaxOfSamplesOptions = {},
): ScalarQuantizer {
  const { seed = 0, restarts = 4, iterations = 1000 } = options
  const where = 'lloydMaxOfSamples'
  requireFinite(where, 'samples', samples)
  requireInteger(where, 'restarts', restarts, 0)
  requireInteger(where, 'iterations', iterations, 1)
  const weights = options.weights && Float64Array.from(options.weights)
  const points = { rows: samples.length, columns: 1, data: Float64Array.from(samples) }
  checkKmeans(where, points, levels, weights)

  const line = sortedLine(points.data, weights)
  const total = line.w.at(-1) as number
  const starts: Float64Array[] = [
    Float64Array.from({ length: levels }, (_, i) => quantile(line, ((i + 0.5) / levels) * total)),
  ]
  for (let start = 0; start < restarts; start++) {
    const startSeed = (seed + start * 0x9e3779b9) | 0
    starts.push(kmeansPlusPlus(points, levels, { seed: startSeed, ...(weights && { weights }) }).data.sort())
  }
  let best: ScalarQuantizer | undefined
  for (const start of starts) {
    const result = settle(line, start, iterations)
    if (!best || result.error < best.error) best = result
  }
  if (!best) throw new MathError(where, 'no start', 'at least one', 'Report this.')
  return best
}

function sortedLine(samples: Float64Array, weights?: Float64Array): Line {
  const order = Uint32Array.from(samples, (_, i) => i).sort(
    (a, b) => (samples[a] as number) - (samples[b] as number) || a - b,
  )
  const n = samples.length
  const line = {
    x: new Float64Array(n),
    w: new Float64Array(n + 1),
    wx: new Float64Array(n + 1),
    wxx: new Float64Array(n + 1),
  }
  for (let i = 0; i < n; i++) {
    const x = samples[order[i] as number] as number
    const w = weights ? (weights[order[i] as number] as number) : 1
    line.x[i] = x
    line.w[i + 1] = (line.w[i] as number) + w
    line.wx[i + 1] = (line.wx[i] as number) + w * x
    line.wxx[i + 1] = (line.wxx[i] as number) + w * x * x
  }
  return line
}

/** The sample at which the running weight reaches `wanted`. */
function quantile({ x, w }: Line, wanted: number): number {
  return x[Math.min(x.length - 1, firstWhere(w, (value) => value >= wanted, w.length) - 1)] ?? (x[0] as number)
}

/** First index below `end` where the (monotone) test holds, else `end`. */
function firstWhere(values: Float64Array, test: (value: number) => boolean, end: number): number {
  let low = 0
  let high = end
  while (low < high) {
    const middle = (low + high) >> 1
    if (test(values[middle] as number)) high = middle
    else low = middle + 1
  }
  return low
}

function settle(line: Line, start: Float64Array, iterations: number): ScalarQuantizer {
  let centroids = start
  let ends = cellEnds(line, centroids)
  for (let step = 0; step < iterations; step++) {
    const means = centroids.map((old, j) => {
      const weight = between(line.w, ends, j)
      return weight > 0 ? between(line.wx, ends, j) / weight : old
    })
    means.sort()
    const next = cellEnds(line, means)
    const same = next.every((end, j) => end === ends[j])
    centroids = means
    ends = next
    if (same) break
  }
  let error = 0
  centroids.forEach((c, j) => {
    error += between(line.wxx, ends, j) - 2 * c * between(line.wx, ends, j) + c * c * between(line.w, ends, j)
  })
  const boundaries = Float64Array.from({ length: centroids.length - 1 }, (_, j) => middleOf(centroids, j))
  return { centroids, boundaries, error: Math.max(0, error) / (line.w.at(-1) as number) }
}

const middleOf = (centroids: Float64Array, j: number): number =>
  ((centroids[j] as number) + (centroids[j + 1] as number)) / 2

/** Cell j holds the sorted samples ends[j - 1] … ends[j] - 1. */
function cellEnds({ x }: Line, centroids: Float64Array): Int32Array {
  return Int32Array.from(centroids, (_, j) =>
    j === centroids.length - 1 ? x.length : firstWhere(x, (value) => value > middleOf(centroids, j), x.length),
  )
}

const between = (sums: Float64Array, ends: Int32Array, j: number): number =>
  (sums[ends[j] as number] as number) - (sums[j === 0 ? 0 : (ends[j - 1] as number)] as number)
