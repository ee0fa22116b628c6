/**
 * k-means with weights (Lloyd's iteration, k-means++ start), deterministic: points are visited in rising order, ties go to the
 * lowest centroid, the seed fixes the start. Fisher-weighted k-means is what Coupled Quantization learns its codebooks with
 * (arXiv 2405.03917, section 3.2) and KVQuant its signposts (arXiv 2401.18079).
 */
import { MathError, requireInteger } from './errors'
import { checkKmeans, kmeansPlusPlus } from './kmeans-start'
import { type Matrix, type MatrixLike, matrix } from './matrix'
import { type Nearest, nearest } from './nearest'

export interface KmeansOptions {
  /** Number of centroids k. */
  readonly clusters: number
  /** `[n]` (one weight per point) or `[n · d]` (one per coordinate), none negative. Default all 1. */
  readonly weights?: ArrayLike<number>
  /** `[k, d]` first centroids instead of k-means++. */
  readonly initial?: MatrixLike
  /** Seed of k-means++ and of the restarts. Default 0. */
  readonly seed?: number
  /** Most Lloyd steps of a start. Default 100. */
  readonly iterations?: number
  /** Stop when a step lowers the cost by less than this fraction. Default 0: when nothing changes. */
  readonly tolerance?: number
  /** Independent k-means++ starts, the best is returned. Default 1. */
  readonly restarts?: number
  /** A centroid without members (or of zero weight) stays, or moves to the point that costs most. Default 'reseed'. */
  readonly empty?: 'reseed' | 'keep'
}

export interface KmeansResult {
  /** `[k, d]` */
  readonly centroids: Matrix
  /** `[n]` index of each point's centroid. */
  readonly assignment: Int32Array
  /** Cost after 0, 1, 2 … steps: `costs[0]` of the start, the last of `centroids`. Never rises. */
  readonly costs: readonly number[]
  /** The last of `costs`: sum of w · (x - centroid)². */
  readonly cost: number
}

/**
 * Centroids of `points` `[n, d]` that lower `sum w (x - c)²`. With a weight per point the nearest centroid is the plain nearest;
 * with weights per coordinate distances are weighted too, so that the cost still never rises.
 *
 * @throws MathError when sizes do not agree, weights are negative or all zero, or there are fewer points than clusters
 */
export function kmeans(points: MatrixLike, options: KmeansOptions): KmeansResult {
  const { clusters, initial, seed = 0, iterations = 100, tolerance = 0, restarts = 1, empty = 'reseed' } = options
  const weights = options.weights && Float64Array.from(options.weights)
  checkKmeans('kmeans', points, clusters, weights)
  requireInteger('kmeans', 'iterations', iterations, 0)
  requireInteger('kmeans', 'restarts', restarts, 1)
  if (initial && (initial.rows !== clusters || initial.columns !== points.columns)) {
    throw new MathError(
      'kmeans',
      `initial [${initial.rows}, ${initial.columns}]`,
      `[${clusters}, ${points.columns}]`,
      'Pass one row per cluster.',
    )
  }
  const x = matrix(points.rows, points.columns, points.data)
  let best: KmeansResult | undefined
  for (let start = 0; start < (initial ? 1 : restarts); start++) {
    const first = initial
      ? matrix(clusters, points.columns, initial.data)
      : kmeansPlusPlus(x, clusters, { seed: (seed + start * 0x9e3779b9) | 0, ...(weights && { weights }) })
    const result = lloyd(x, first, weights, iterations, tolerance, empty)
    if (!best || result.cost < best.cost) best = result
  }
  return best as KmeansResult
}

function lloyd(
  points: Matrix,
  first: Matrix,
  weights: Float64Array | undefined,
  iterations: number,
  tolerance: number,
  empty: 'reseed' | 'keep',
): KmeansResult {
  let centroids = first
  let found = assign(points, centroids, weights)
  let cost = costOf(points, found, weights)
  const costs = [cost]
  for (let step = 0; step < iterations; step++) {
    const moved = means(points, found, centroids, weights)
    const reseeded = empty === 'reseed' && reseed(points, found, moved, weights)
    const next = assign(points, moved.centroids, weights, found.index)
    const nextCost = costOf(points, next, weights)
    // Rounding of the means may lift the cost by some last digits: then the old centroids are the better ones.
    if (nextCost > cost) break
    const same = !reseeded && next.index.every((j, i) => j === found.index[i])
    const gain = cost - nextCost
    centroids = moved.centroids
    found = next
    cost = nextCost
    costs.push(cost)
    if (same || cost === 0 || gain < tolerance * cost) break
  }
  return { centroids, assignment: found.index, costs, cost }
}

/** Weighted means of the members; a cell without weight keeps its centroid and is listed in `without`. */
function means(points: Matrix, found: Nearest, old: Matrix, weights: Float64Array | undefined) {
  const d = points.columns
  const perCoordinate = weights !== undefined && weights.length === points.data.length && d !== 1
  const sums = matrix(old.rows, d)
  const totals = matrix(old.rows, d)
  for (let i = 0; i < points.rows; i++) {
    const to = (found.index[i] as number) * d
    for (let t = 0; t < d; t++) {
      const w = weights === undefined ? 1 : (weights[perCoordinate ? i * d + t : i] as number)
      sums.data[to + t] = (sums.data[to + t] as number) + w * (points.data[i * d + t] as number)
      totals.data[to + t] = (totals.data[to + t] as number) + w
    }
  }
  const without: number[] = []
  for (let j = 0; j < old.rows; j++) {
    let weight = 0
    for (let at = j * d; at < (j + 1) * d; at++) {
      const total = totals.data[at] as number
      weight += total
      sums.data[at] = total > 0 ? (sums.data[at] as number) / total : (old.data[at] as number)
    }
    if (weight === 0) without.push(j)
  }
  return { centroids: sums, without }
}

/** Moves each centroid without weight onto the point whose cost is largest, a different point each. Tells whether any moved. */
function reseed(
  points: Matrix,
  found: Nearest,
  moved: { centroids: Matrix; without: readonly number[] },
  weights: Float64Array | undefined,
): boolean {
  if (moved.without.length === 0) return false
  const d = points.columns
  const costs = Float64Array.from({ length: points.rows }, (_, i) => pointCost(points, found, weights, i))
  let any = false
  for (const j of moved.without) {
    let worst = 0
    for (let i = 1; i < costs.length; i++) if ((costs[i] as number) > (costs[worst] as number)) worst = i
    if (!((costs[worst] as number) > 0)) break
    moved.centroids.data.set(points.data.subarray(worst * d, (worst + 1) * d), j * d)
    costs[worst] = 0
    any = true
  }
  return any
}

/** Nearest centroids; with weights per coordinate by the weighted distance, which `squaredDistance` then holds. */
function assign(points: Matrix, centroids: Matrix, weights: Float64Array | undefined, guess?: Int32Array): Nearest {
  const d = points.columns
  if (weights === undefined || weights.length === points.rows) return nearest(points, centroids, guess)
  const found: Nearest = { index: new Int32Array(points.rows), squaredDistance: new Float64Array(points.rows) }
  for (let i = 0; i < points.rows; i++) {
    let best = Number.POSITIVE_INFINITY
    for (let j = 0; j < centroids.rows; j++) {
      let sum = 0
      for (let t = 0; t < d; t++) {
        sum +=
          (weights[i * d + t] as number) *
          ((points.data[i * d + t] as number) - (centroids.data[j * d + t] as number)) ** 2
      }
      if (sum < best) {
        best = sum
        found.index[i] = j
      }
    }
    found.squaredDistance[i] = best
  }
  return found
}

/** What point `i` adds to the cost. */
function pointCost(points: Matrix, found: Nearest, weights: Float64Array | undefined, i: number): number {
  const factor = weights !== undefined && weights.length === points.rows ? (weights[i] as number) : 1
  return factor * (found.squaredDistance[i] as number)
}

function costOf(points: Matrix, found: Nearest, weights: Float64Array | undefined): number {
  let sum = 0
  for (let i = 0; i < points.rows; i++) sum += pointCost(points, found, weights, i)
  return sum
}
