/**
 * Lloyd-Max scalar quantizers of a known density (Lloyd 1982, Max 1960): each level is the mean of its cell, each cell ends
 * half-way between levels. Solved by Lloyd steps and then Newton's method on the tridiagonal system; integrals by Gauss-Legendre.
 */
import { MathError, requireInteger } from './errors'
import { exactExp, exactLog } from './exact'

export interface Density {
  /** Not normalised; continuous and positive inside the support. */
  readonly of: (x: number) => number
  /** Finite ends beyond which there is nothing that counts. */
  readonly low: number
  readonly high: number
}

export interface ScalarQuantizer {
  /** `[levels]`, rising. */
  readonly centroids: Float64Array
  /** `[levels - 1]`: half-way points between neighbouring centroids. */
  readonly boundaries: Float64Array
  /** Mean squared error under the density. */
  readonly error: number
}

/** N(0, 1). Beyond 12 lies less than 1e-32 of it. */
export const GAUSSIAN: Density = { of: (x) => exactExp(-(x * x) / 2), low: -12, high: 12 }

/**
 * The law of one coordinate of a uniformly random unit vector in `dimension` dimensions, ∝ (1 - y²)^((dimension - 3) / 2)
 * (TurboQuant, arXiv 2504.19874, lemma 1).
 *
 * @throws MathError unless `dimension` is an integer of at least 3
 */
export function sphereCoordinate(dimension: number): Density {
  requireInteger('sphereCoordinate', 'dimension', dimension, 3)
  const power = (dimension - 3) / 2
  // Where (1 - y²)^power falls below e^-150 nothing is left; cells then stay as wide as the law.
  const end = power === 0 ? 1 : Math.sqrt(1 - exactExp(-150 / power))
  return {
    of: (y) => (power === 0 ? 1 : exactExp(power * exactLog(Math.max(1 - y * y, 1e-300)))),
    low: -end,
    high: end,
  }
}

/**
 * The quantizer with the least mean squared error for `density`.
 *
 * @param levels 1 … 4096
 * @throws MathError when levels is out of range, the density has no mass, or the iteration does not settle
 */
export function lloydMax(density: Density, levels: number): ScalarQuantizer {
  requireInteger('lloydMax', 'levels', levels, 1, 4096)
  if (!(density.high > density.low)) {
    throw new MathError('lloydMax', `support ${density.low} … ${density.high}`, 'low < high', 'Swap them.')
  }
  let centroids = start(density, levels)
  const scale = density.high - density.low
  for (let step = 0; step < 400; step++) {
    const cells = integrate(density, centroids)
    const newton = step >= 20 ? newtonStep(density, centroids, cells) : undefined
    const next = newton && rises(newton, density) ? newton : cells.map(({ mean }) => mean)
    const change = Math.max(...next.map((c, i) => Math.abs(c - (centroids[i] as number))))
    centroids = next
    if (step > 20 && change <= 1e-15 * scale) return finish(density, centroids)
  }
  // The last digits may swing by a rounding error for ever.
  const cells = integrate(density, centroids)
  const residual = Math.max(...cells.map(({ mean }, i) => Math.abs(mean - (centroids[i] as number))))
  if (residual <= 1e-12 * scale) return finish(density, centroids)
  throw new MathError(
    'lloydMax',
    `a density whose iteration still moves by ${residual}`,
    'a log-concave density',
    'Use lloydMaxOfSamples.',
  )
}

interface Cell {
  readonly mass: number
  readonly mean: number
  /** Integral of x² over the cell. */
  readonly second: number
}

/** Quantiles of density^(1/3), which is the point density of the optimum for many levels (Panter and Dite 1951). */
function start(density: Density, levels: number): number[] {
  const steps = 20_000
  const width = (density.high - density.low) / steps
  const cumulative = new Float64Array(steps + 1)
  for (let i = 0; i < steps; i++) {
    const value = density.of(density.low + (i + 0.5) * width)
    cumulative[i + 1] = (cumulative[i] as number) + (value > 0 ? exactExp(exactLog(value) / 3) : 0)
  }
  const total = cumulative[steps] as number
  if (!(total > 0 && total < Number.POSITIVE_INFINITY)) {
    throw new MathError('lloydMax', `a density of total ${total}`, 'a positive, finite density', 'Check the support.')
  }
  const out: number[] = []
  for (let i = 0, at = 0; i < levels; i++) {
    const wanted = ((i + 0.5) / levels) * total
    while ((cumulative[at + 1] as number) < wanted) at++
    const inside = (wanted - (cumulative[at] as number)) / ((cumulative[at + 1] as number) - (cumulative[at] as number))
    out.push(density.low + (at + inside) * width)
  }
  return out
}

const middle = (centroids: readonly number[], i: number): number =>
  ((centroids[i] as number) + (centroids[i + 1] as number)) / 2

function integrate(density: Density, centroids: readonly number[]): Cell[] {
  return centroids.map((_, i) => {
    const low = i === 0 ? density.low : middle(centroids, i - 1)
    const high = i === centroids.length - 1 ? density.high : middle(centroids, i)
    // Pieces short enough that 20 nodes are exact to rounding.
    const pieces = Math.max(1, Math.ceil(((high - low) / (density.high - density.low)) * 48))
    const half = (high - low) / pieces / 2
    let mass = 0
    let first = 0
    let second = 0
    for (let p = 0; p < pieces; p++) {
      const centre = low + (2 * p + 1) * half
      for (const [node, weight] of NODES) {
        const x = centre + half * node
        const f = weight * half * density.of(x)
        mass += f
        first += f * x
        second += f * x * x
      }
    }
    return { mass, mean: mass > 0 ? first / mass : (centroids[i] as number), second }
  })
}

/** Solves J δ = mean - c, where J = I - ∂mean/∂c is tridiagonal: only a cell's own ends move its mean. */
function newtonStep(density: Density, centroids: readonly number[], cells: readonly Cell[]): number[] {
  const n = centroids.length
  const lower = new Float64Array(n)
  const diagonal = new Float64Array(n).fill(1)
  const upper = new Float64Array(n)
  const right = cells.map(({ mean }, i) => mean - (centroids[i] as number))
  cells.forEach(({ mass, mean }, i) => {
    if (!(mass > 0)) return
    const pull = (end: number) => (0.5 * density.of(end) * Math.abs(end - mean)) / mass
    if (i > 0) {
      const left = pull(middle(centroids, i - 1))
      lower[i] = -left
      diagonal[i] = (diagonal[i] as number) - left
    }
    if (i < n - 1) {
      const r = pull(middle(centroids, i))
      upper[i] = -r
      diagonal[i] = (diagonal[i] as number) - r
    }
  })
  for (let i = 1; i < n; i++) {
    const factor = (lower[i] as number) / (diagonal[i - 1] as number)
    diagonal[i] = (diagonal[i] as number) - factor * (upper[i - 1] as number)
    right[i] = (right[i] as number) - factor * (right[i - 1] as number)
  }
  const moved = new Array<number>(n)
  for (let i = n - 1; i >= 0; i--) {
    const beyond = i < n - 1 ? (upper[i] as number) * (moved[i + 1] as number) : 0
    moved[i] = ((right[i] as number) - beyond) / (diagonal[i] as number)
  }
  return moved.map((delta, i) => (centroids[i] as number) + delta)
}

function rises(values: readonly number[], { low, high }: Density): boolean {
  return values.every((v, i) => v > (i === 0 ? low : (values[i - 1] as number)) && v < high)
}

function finish(density: Density, centroids: readonly number[]): ScalarQuantizer {
  const cells = integrate(density, centroids)
  let total = 0
  let error = 0
  cells.forEach(({ mass, mean, second }, i) => {
    const c = centroids[i] as number
    total += mass
    error += second - 2 * c * mass * mean + c * c * mass
  })
  return {
    centroids: Float64Array.from(centroids),
    boundaries: Float64Array.from({ length: centroids.length - 1 }, (_, i) => middle(centroids, i)),
    error: error / total,
  }
}

/** Nodes and weights of Gauss-Legendre on [-1, 1] with 20 nodes, by Newton's method on the Legendre polynomial. */
const NODES: readonly (readonly [number, number])[] = legendre(20)

function legendre(n: number): (readonly [number, number])[] {
  const nodes: (readonly [number, number])[] = []
  for (let i = 0; i < n; i++) {
    // Chebyshev's points start Newton near enough; the last digits come from the iteration, not from Math.cos.
    let x = -Math.cos((Math.PI * (i + 0.75)) / (n + 0.5))
    let slope = 1
    for (let step = 0; step < 20; step++) {
      let p = 1
      let before = 0
      for (let k = 1; k <= n; k++) [p, before] = [((2 * k - 1) * x * p - (k - 1) * before) / k, p]
      slope = (n * (x * p - before)) / (x * x - 1)
      x -= p / slope
    }
    nodes.push([x, 2 / ((1 - x * x) * slope * slope)])
  }
  return nodes
}
