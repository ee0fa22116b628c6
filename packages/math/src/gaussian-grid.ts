/**
 * HIGGS grids: n points in d dimensions that minimise the mean squared error of rounding N(0, I_d) to the nearest of them
 * (HIGGS, arXiv 2411.17525, section 4; the same as optimal quantization of a normal vector, Pagès and Printems 2003).
 * d = 1 is Lloyd-Max, exact. d >= 2 is competitive learning on fresh samples with a falling step (CLVQ in batches, whose noise
 * leaves poor local optima), then Lloyd's iteration on one large sample set. Samples are drawn from the law of the best points
 * (Zador: N(0, (d + 2) / d · I)) and weighted back to N(0, I), so that every cell sees equally many. All follows from the seed.
 */
import { requireInteger } from './errors'
import { exactExp } from './exact'
import { kmeans } from './kmeans'
import { GAUSSIAN, lloydMax } from './lloyd-max'
import { type Matrix, type MatrixLike, matrix } from './matrix'
import { nearest } from './nearest'
import { type Random, seededRandom } from './random'

export interface GaussianGridOptions {
  /** Values coded together, d. */
  readonly dimension: number
  /** Grid points n; log2(n) / d bits per value. */
  readonly points: number
  readonly seed: number
  /** Batches of competitive learning. Default 400. Not used for d = 1, nor are the next four. */
  readonly batches?: number
  /** Samples of a batch per grid point, in the last batch; the first has a twentieth. Default 200. */
  readonly batchPerPoint?: number
  /** Samples of the final Lloyd iteration per grid point. Default 1000. */
  readonly samplesPerPoint?: number
  /** Lloyd steps at the end. Default 100. */
  readonly iterations?: number
  /** Independent starts; the best of them goes into the final Lloyd iteration. Default 1. */
  readonly restarts?: number
}

/**
 * The grid `[points, dimension]`, rows in rising lexicographic order.
 *
 * @throws MathError when an option is out of range
 */
export function gaussianGrid(options: GaussianGridOptions): Matrix {
  const { dimension, points, seed, samplesPerPoint = 1000, iterations = 100, restarts = 1 } = options
  requireInteger('gaussianGrid', 'dimension', dimension, 1, 64)
  requireInteger('gaussianGrid', 'points', points, 1, 2 ** 20)
  requireInteger('gaussianGrid', 'restarts', restarts, 1)
  if (dimension === 1) return matrix(points, 1, lloydMax(GAUSSIAN, points).centroids)

  const random = seededRandom(seed)
  const judge = draw(random, Math.max(20_000, 200 * points), dimension)
  let best: { grid: Matrix; error: number } | undefined
  for (let start = 0; start < restarts; start++) {
    const grid = compete(random, options)
    const error = restarts === 1 ? 0 : errorOn(judge, grid)
    if (!best || error < best.error) best = { grid, error }
  }
  const grid = (best as { grid: Matrix }).grid
  if (iterations === 0) return sorted(grid)
  const { x, weights } = draw(random, samplesPerPoint * points, dimension)
  return sorted(kmeans(x, { clusters: points, initial: grid, weights, iterations, tolerance: 1e-8 }).centroids)
}

/**
 * Mean squared error per value of rounding N(0, I) to `grid` `[n, d]`, estimated on `count` seeded samples.
 * Two grids compared with the same seed share the samples, so that their difference is far more precise than either value.
 *
 * @throws MathError when `count` is below 1
 */
export function gaussianError(grid: MatrixLike, options: { readonly seed: number; readonly count: number }): number {
  requireInteger('gaussianError', 'count', options.count, 1)
  return errorOn(draw(seededRandom(options.seed), options.count, grid.columns), grid)
}

/** Weighted samples that stand for N(0, I): `x` `[count, d]`, `weights` `[count]` of mean about 1. */
interface Samples {
  readonly x: Matrix
  readonly weights: Float64Array
}

const spreadOf = (d: number): number => Math.sqrt((d + 2) / d)

function drawPoints(random: Random, count: number, d: number): Matrix {
  const x = { rows: count, columns: d, data: random.gaussians(count * d) }
  for (let i = 0; i < x.data.length; i++) x.data[i] = (x.data[i] as number) * spreadOf(d)
  return x
}

function draw(random: Random, count: number, d: number): Samples {
  const x = drawPoints(random, count, d)
  // Ratio of the two normal densities: spread^d exp(-|x|² / 2 · (1 - d / (d + 2))).
  const top = spreadOf(d) ** d
  const weights = new Float64Array(count)
  for (let i = 0; i < count; i++) {
    let length = 0
    for (let t = i * d; t < (i + 1) * d; t++) length += (x.data[t] as number) ** 2
    weights[i] = top * exactExp(-length / (d + 2))
  }
  return { x, weights }
}

function errorOn({ x, weights }: Samples, grid: MatrixLike): number {
  const { squaredDistance } = nearest(x, grid)
  let sum = 0
  let total = 0
  for (let i = 0; i < weights.length; i++) {
    sum += (weights[i] as number) * (squaredDistance[i] as number)
    total += weights[i] as number
  }
  return sum / (total * grid.columns)
}

/** Batches of growing size; each moves every point towards the mean of its cell, past it at first, by a step that falls to 1. */
function compete(random: Random, options: GaussianGridOptions): Matrix {
  const { dimension: d, points: n, batches = 400, batchPerPoint = 200 } = options
  const grid = drawPoints(random, n, d)
  for (let batch = 0; batch < batches; batch++) {
    const progress = batch / Math.max(1, batches - 1)
    const size = Math.ceil(n * batchPerPoint * (0.05 + 0.95 * progress * progress))
    const drawn = draw(random, size, d)
    const step = 1 + 0.8 * (1 - progress)
    moveTowardsMeans(grid, drawn, nearest(drawn.x, grid).index, step)
  }
  return grid
}

/** An empty cell's point moves onto a sample of the batch (the first not used so). */
function moveTowardsMeans(grid: Matrix, { x, weights }: Samples, index: Int32Array, step: number): void {
  const { rows: n, columns: d } = grid
  const sums = new Float64Array(n * d)
  const totals = new Float64Array(n)
  for (let i = 0; i < x.rows; i++) {
    const j = index[i] as number
    const weight = weights[i] as number
    totals[j] = (totals[j] as number) + weight
    for (let t = 0; t < d; t++) sums[j * d + t] = (sums[j * d + t] as number) + weight * (x.data[i * d + t] as number)
  }
  let spare = 0
  for (let j = 0; j < n; j++) {
    const total = totals[j] as number
    if (total === 0) {
      grid.data.set(x.data.subarray(spare * d, (spare + 1) * d), j * d)
      spare++
      continue
    }
    for (let at = j * d; at < (j + 1) * d; at++) {
      const old = grid.data[at] as number
      grid.data[at] = old + step * ((sums[at] as number) / total - old)
    }
  }
}

function sorted(grid: Matrix): Matrix {
  const { rows: n, columns: d, data } = grid
  const order = Array.from({ length: n }, (_, i) => i).sort((a, b) => {
    for (let t = 0; t < d; t++) {
      const gap = (data[a * d + t] as number) - (data[b * d + t] as number)
      if (gap !== 0) return gap
    }
    return a - b
  })
  const out = matrix(n, d)
  order.forEach((from, to) => {
    out.data.set(data.subarray(from * d, (from + 1) * d), to * d)
  })
  return out
}
