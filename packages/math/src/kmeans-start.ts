/** The start of k-means: k-means++ (Arthur and Vassilvitskii, SODA 2007; its greedy form of section 5), and the checks all of it shares. */
import { MathError, requireInteger } from './errors'
import { checkMatrix, type Matrix, type MatrixLike, matrix } from './matrix'
import { seededRandom } from './random'

/** @throws MathError when `points`, `clusters` and `weights` do not fit together */
export function checkKmeans(where: string, points: MatrixLike, clusters: number, weights?: Float64Array): void {
  checkMatrix(where, 'points', points)
  requireInteger(where, 'clusters', clusters, 1)
  if (points.rows < clusters) {
    throw new MathError(
      where,
      `${points.rows} points for ${clusters} clusters`,
      'at least as many points as clusters',
      'Calibrate on more tokens, or use fewer bits.',
    )
  }
  if (!weights) return
  if (weights.length !== points.rows && weights.length !== points.data.length) {
    throw new MathError(
      where,
      `${weights.length} weights for points [${points.rows}, ${points.columns}]`,
      `${points.rows} (one a point) or ${points.data.length} (one a coordinate)`,
      'Check the shapes.',
    )
  }
  let total = 0
  for (const weight of weights) {
    if (!(weight >= 0 && weight < Number.POSITIVE_INFINITY)) {
      throw new MathError(where, `a weight ${weight}`, 'finite weights, none negative', 'Square the gradients.')
    }
    total += weight
  }
  if (total === 0) throw new MathError(where, 'weights that are all 0', 'a positive sum', 'Leave the weights out.')
}

/**
 * First centroids `[clusters, d]`, rows of `points` `[n, d]`: the first drawn with probability ∝ weight, each further one ∝
 * weight · squared distance to the nearest chosen, the best of `trials` such draws. When every point is covered, the rest are the first points not yet chosen.
 *
 * @param options.trials 1 is the plain form. Default 2 + ln k
 * @param options.weights `[n]`, or `[n · d]` (their mean over the coordinates of a point counts). Default all 1
 * @throws MathError as `kmeans`
 */
export function kmeansPlusPlus(
  points: MatrixLike,
  clusters: number,
  options: { readonly seed: number; readonly weights?: Float64Array; readonly trials?: number },
): Matrix {
  checkKmeans('kmeansPlusPlus', points, clusters, options.weights)
  const { rows: n, columns: d } = points
  const x = matrix(n, d, points.data)
  const random = seededRandom(options.seed)
  const weights = perPoint(options.weights, n, d)
  const { trials = 2 + Math.floor(Math.log(clusters)) } = options
  requireInteger('kmeansPlusPlus', 'trials', trials, 1)
  const centroids = matrix(clusters, d)
  let distance = new Float64Array(n).fill(1)
  const chosen = new Uint8Array(n)
  for (let j = 0; j < clusters; j++) {
    let pick = -1
    let least = Number.POSITIVE_INFINITY
    let next = distance
    for (let trial = 0; trial < (j === 0 ? 1 : trials); trial++) {
      const candidate = draw(weights, distance, chosen, random.uniform())
      const { distances, cost } = distancesWith(x, candidate, j === 0 ? undefined : distance, weights)
      if (cost >= least) continue
      least = cost
      pick = candidate
      next = distances
    }
    distance = next
    chosen[pick] = 1
    centroids.data.set(x.data.subarray(pick * d, (pick + 1) * d), j * d)
  }
  return centroids
}

/** Squared distances to the nearest chosen point once row `candidate` is chosen too, and their weighted sum. */
function distancesWith(x: Matrix, candidate: number, before: Float64Array | undefined, weights: Float64Array) {
  const { rows: n, columns: d } = x
  const distances = new Float64Array(n)
  let cost = 0
  for (let i = 0; i < n; i++) {
    let sum = 0
    for (let t = 0; t < d; t++) sum += ((x.data[i * d + t] as number) - (x.data[candidate * d + t] as number)) ** 2
    const nearest = before ? Math.min(before[i] as number, sum) : sum
    distances[i] = nearest
    cost += (weights[i] as number) * nearest
  }
  return { distances, cost }
}

function perPoint(weights: Float64Array | undefined, n: number, d: number): Float64Array {
  if (!weights) return new Float64Array(n).fill(1)
  if (weights.length === n) return weights
  const means = new Float64Array(n)
  for (let i = 0; i < n * d; i++) {
    const point = Math.floor(i / d)
    means[point] = (means[point] as number) + (weights[i] as number) / d
  }
  return means
}

/** A point with probability ∝ weights · distance; the first that is not chosen when all of that is 0. */
function draw(weights: Float64Array, distance: Float64Array, chosen: Uint8Array, uniform: number): number {
  let total = 0
  for (let i = 0; i < weights.length; i++) total += (weights[i] as number) * (distance[i] as number)
  let left = uniform * total
  let last = -1
  for (let i = 0; i < weights.length; i++) {
    const mass = (weights[i] as number) * (distance[i] as number)
    if (mass === 0) continue
    last = i
    left -= mass
    if (left < 0) return i
  }
  return last >= 0 ? last : chosen.indexOf(0)
}
