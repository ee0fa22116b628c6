/**
 * The nearest centroid of every point, exactly, with the lowest index on ties. Where an earlier assignment is known the search
 * looks only at centroids within twice the point's distance to it (triangle inequality, as in Newling and Fleuret's
 * exponion algorithm, ICML 2016, link http://proceedings.mlr.press/v48/newling16.html); the result is the same.
 */
import { MathError } from './errors'
import { checkMatrix, type MatrixLike } from './matrix'
import { walk } from './nearest-walk'

export interface Nearest {
  /** `[points]` index of the nearest centroid. */
  readonly index: Int32Array
  /** `[points]` squared distance to it. */
  readonly squaredDistance: Float64Array
}

/**
 * @param points `[n, d]`
 * @param centroids `[k, d]`, k >= 1
 * @param guess `[n]` any assignment, better the nearer; changes the time, not the result
 * @throws MathError when the sizes do not agree
 */
export function nearest(points: MatrixLike, centroids: MatrixLike, guess?: Int32Array): Nearest {
  if (points.columns !== centroids.columns || centroids.rows === 0 || (guess && guess.length !== points.rows)) {
    throw new MathError(
      'nearest',
      `points [${points.rows}, ${points.columns}], centroids [${centroids.rows}, ${centroids.columns}]`,
      'equal dimensions, at least one centroid, a guess per point',
      'Check the shapes.',
    )
  }
  checkMatrix('nearest', 'points', points)
  checkMatrix('nearest', 'centroids', centroids)
  const found: Nearest = { index: new Int32Array(points.rows), squaredDistance: new Float64Array(points.rows) }
  const x = asFloat64(points)
  const c = asFloat64(centroids)
  const d = points.columns
  const near = guess ?? (centroids.rows >= WALK_FROM && points.rows > centroids.rows ? walk(x, c, d) : undefined)
  if (near) searchAround(x, c, near, d, found)
  else searchAll(x, c, d, found)
  return found
}

/** Fewer centroids than this are all looked at. */
const WALK_FROM = 48

const asFloat64 = ({ data }: MatrixLike): Float64Array =>
  data instanceof Float64Array ? data : Float64Array.from(data)

/** Squared distance of row `i` of `x` and row `j` of `c`, rows of `d` numbers, summed in rising order. */
function squared(x: Float64Array, i: number, c: Float64Array, j: number, d: number): number {
  let from = i * d
  let sum = 0
  for (let at = j * d; at < j * d + d; at++) {
    const gap = (x[from++] as number) - (c[at] as number)
    sum += gap * gap
  }
  return sum
}

function searchAll(x: Float64Array, c: Float64Array, d: number, found: Nearest): void {
  const k = c.length / d
  for (let i = 0; i < found.index.length; i++) {
    let best = Number.POSITIVE_INFINITY
    for (let j = 0; j < k; j++) {
      const distance = squared(x, i, c, j, d)
      if (distance < best) {
        best = distance
        found.index[i] = j
      }
    }
    found.squaredDistance[i] = best
  }
}

/** Points by their guessed centroid: for each centroid its neighbours in rising distance, then every point that guessed it. */
function searchAround(x: Float64Array, c: Float64Array, guess: Int32Array, d: number, found: Nearest): void {
  const n = guess.length
  const k = c.length / d
  const reach = new Float64Array(k) // largest squared distance of a point to the centroid it guessed
  const start = new Int32Array(k + 1)
  for (let i = 0; i < n; i++) {
    const home = guess[i] as number
    const distance = squared(x, i, c, home, d)
    found.squaredDistance[i] = distance
    found.index[i] = home
    if (distance > (reach[home] as number)) reach[home] = distance
    start[home + 1] = (start[home + 1] as number) + 1
  }
  for (let j = 0; j < k; j++) start[j + 1] = (start[j + 1] as number) + (start[j] as number)
  const members = new Int32Array(n)
  const next = start.slice(0, k)
  for (let i = 0; i < n; i++) {
    const home = guess[i] as number
    const place = next[home] as number
    members[place] = i
    next[home] = place + 1
  }

  const between = new Float64Array(k)
  for (let home = 0; home < k; home++) {
    if (start[home] === start[home + 1]) continue
    const neighbours: number[] = []
    for (let j = 0; j < k; j++) {
      between[j] = squared(c, home, c, j, d)
      if (j !== home && (between[j] as number) <= 4 * SLACK * (reach[home] as number)) neighbours.push(j)
    }
    const order = Int32Array.from(neighbours.sort((a, b) => (between[a] as number) - (between[b] as number)))
    for (let m = start[home] as number; m < (start[home + 1] as number); m++) {
      closestAround(x, members[m] as number, c, d, order, between, found)
    }
  }
}

/** Rounding may not cut off a neighbour that lies exactly on the bound. */
const SLACK = 1 + 1e-9

function closestAround(
  x: Float64Array,
  i: number,
  c: Float64Array,
  d: number,
  order: Int32Array,
  between: Float64Array,
  found: Nearest,
): void {
  let best = found.squaredDistance[i] as number
  let chosen = found.index[i] as number
  // A centroid further than twice this from the guessed one is further from the point than the guessed one.
  const bound = 4 * SLACK * best
  for (let n = 0; n < order.length; n++) {
    const j = order[n] as number
    if ((between[j] as number) > bound) break
    const distance = squared(x, i, c, j, d)
    if (distance < best || (distance === best && j < chosen)) {
      best = distance
      chosen = j
    }
  }
  found.squaredDistance[i] = best
  found.index[i] = chosen
}

/** Sum of squared distances of `points` `[n, d]` to their nearest centroid, divided by n · d: the mean squared error per value. */
export function quantizationError(points: MatrixLike, centroids: MatrixLike, guess?: Int32Array): number {
  const { squaredDistance: distances } = nearest(points, centroids, guess)
  let sum = 0
  for (let i = 0; i < distances.length; i++) sum += distances[i] as number
  return sum / (points.rows * points.columns)
}
