/**
 * A guess at the nearest centroid, in a fraction of the time of looking at all: from the nearest of √k pivots, step to the
 * nearest neighbour as long as that helps. Right nearly always in few dimensions; `nearest` makes it exact.
 */

/** Neighbours known of every centroid. */
const DEGREE = 20

/**
 * @param x points `[n, d]`, row-major
 * @param c centroids `[k, d]`, row-major, k > 20
 * @returns `[n]` index of a near centroid
 */
export function walk(x: Float64Array, c: Float64Array, d: number): Int32Array {
  const k = c.length / d
  const n = x.length / d
  const neighbours = neighbourLists(c, d)
  const pivots = Math.ceil(Math.sqrt(k))
  const guess = new Int32Array(n)
  for (let i = 0; i < n; i++) {
    let at = 0
    let best = Number.POSITIVE_INFINITY
    for (let p = 0; p < pivots; p++) {
      const j = Math.floor((p * k) / pivots)
      const distance = below(x, i * d, c, j * d, d, best)
      if (distance < best) {
        best = distance
        at = j
      }
    }
    for (let last = -1; last !== at; ) {
      last = at
      for (let m = last * DEGREE; m < (last + 1) * DEGREE; m++) {
        const j = neighbours[m] as number
        const distance = below(x, i * d, c, j * d, d, best)
        if (distance < best) {
          best = distance
          at = j
        }
      }
    }
    guess[i] = at
  }
  return guess
}

/** Squared distance, or any number of at least `limit` once it is known to reach it. */
function below(x: Float64Array, from: number, c: Float64Array, to: number, d: number, limit: number): number {
  let sum = 0
  for (let t = 0; t < d && sum < limit; t++) {
    const gap = (x[from + t] as number) - (c[to + t] as number)
    sum += gap * gap
  }
  return sum
}

/** `[k, DEGREE]` nearest other centroids of each, by insertion. */
function neighbourLists(c: Float64Array, d: number): Int32Array {
  const k = c.length / d
  const lists = new Int32Array(k * DEGREE)
  const distances = new Float64Array(DEGREE)
  for (let i = 0; i < k; i++) {
    distances.fill(Number.POSITIVE_INFINITY)
    const list = lists.subarray(i * DEGREE, (i + 1) * DEGREE)
    for (let j = 0; j < k; j++) {
      if (j === i) continue
      const distance = below(c, i * d, c, j * d, d, distances[DEGREE - 1] as number)
      if (!(distance < (distances[DEGREE - 1] as number))) continue
      let place = DEGREE - 1
      for (; place > 0 && (distances[place - 1] as number) > distance; place--) {
        distances[place] = distances[place - 1] as number
        list[place] = list[place - 1] as number
      }
      distances[place] = distance
      list[place] = j
    }
  }
  return lists
}
