/** Singular value decompositions, full, truncated and randomized, and the pseudo-inverse (Golub and Kahan's method of ml-matrix). */
import { SingularValueDecomposition } from 'ml-matrix'
import { fixSigns } from './eigen'
import { requireInteger } from './errors'
import {
  checkMatrix,
  firstColumns,
  fromMl,
  type Matrix,
  type MatrixLike,
  matrix,
  multiply,
  toMl,
  transpose,
} from './matrix'
import { orthonormalColumns } from './orthogonal'
import { seededRandom } from './random'

export interface Svd {
  /** `[m, r]`, orthonormal columns. */
  readonly u: Matrix
  /** `[r]`, falling, none negative. */
  readonly values: Float64Array
  /** `[n, r]`, orthonormal columns; the largest component in size of each is positive. */
  readonly v: Matrix
}

/**
 * `a` `[m, n]` = u diag(values) vᵀ, r = min(m, n); with `rank` only the `rank` largest: the best approximation of that rank
 * (Eckart and Young 1936).
 *
 * @throws MathError when `a` is not finite or rank is beyond min(m, n)
 */
export function svd(a: MatrixLike, options: { readonly rank?: number } = {}): Svd {
  checkMatrix('svd', 'a', a)
  const full = Math.min(a.rows, a.columns)
  const rank = options.rank ?? full
  requireInteger('svd', 'rank', rank, 0, full)
  if (full === 0) return { u: matrix(a.rows, 0), values: new Float64Array(0), v: matrix(a.columns, 0) }
  if (a.rows < a.columns) {
    const { u, values, v } = svd(transpose(a), { rank })
    const turned = { u: v, values, v: u }
    fixSigns(turned.v, turned.u)
    return turned
  }
  // Of a tall matrix only the small square matrix Qᵀa is decomposed.
  const basis = a.rows > 2 * a.columns ? orthonormalColumns(a) : undefined
  if (basis && basis.columns === a.columns) {
    const inner = svd(multiply(transpose(basis), a), { rank })
    return { ...inner, u: multiply(basis, inner.u) }
  }
  const found = new SingularValueDecomposition(toMl(a), { autoTranspose: false })
  const u = firstColumns(fromMl(found.leftSingularVectors), rank)
  const v = firstColumns(fromMl(found.rightSingularVectors), rank)
  fixSigns(v, u)
  return { u, values: Float64Array.from(found.diagonal.slice(0, rank)), v }
}

export interface RandomizedSvdOptions {
  readonly rank: number
  /** Seed of the Gaussian test matrix. Default 0. */
  readonly seed?: number
  /** Extra directions that are sought and dropped. Default 10. */
  readonly oversample?: number
  /** Multiplications with a aᵀ that sharpen the range; more for slowly falling spectra. Default 2. */
  readonly powerIterations?: number
}

/**
 * The `rank` largest singular triples of a large matrix `a` `[m, n]` in O(m n (rank + oversample)) a pass
 * (Halko, Martinsson, Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1). Exact when rank + oversample reaches min(m, n).
 *
 * @throws MathError when `a` is not finite or an option is out of range
 */
export function randomizedSvd(a: MatrixLike, options: RandomizedSvdOptions): Svd {
  const { rank, seed = 0, oversample = 10, powerIterations = 2 } = options
  checkMatrix('randomizedSvd', 'a', a)
  const full = Math.min(a.rows, a.columns)
  requireInteger('randomizedSvd', 'rank', rank, 1, full)
  requireInteger('randomizedSvd', 'oversample', oversample, 0)
  requireInteger('randomizedSvd', 'powerIterations', powerIterations, 0)
  const width = Math.min(full, rank + oversample)
  const test: Matrix = { rows: a.columns, columns: width, data: seededRandom(seed).gaussians(a.columns * width) }
  const turned = transpose(a)
  let range = orthonormalColumns(multiply(a, test))
  for (let power = 0; power < powerIterations; power++) {
    range = orthonormalColumns(multiply(a, orthonormalColumns(multiply(turned, range))))
  }
  if (range.columns < rank) return svd(a, { rank }) // Of lower rank than asked: complete the basis the exact way.
  const inner = svd(multiply(transpose(range), a), { rank })
  return { ...inner, u: multiply(range, inner.u) }
}

/** u diag(values) vᵀ, `[m, n]`. */
export function fromSvd({ u, values, v }: Svd): Matrix {
  const scaled = matrix(u.rows, u.columns, u.data)
  for (let i = 0; i < scaled.data.length; i++) {
    scaled.data[i] = (scaled.data[i] as number) * (values[i % u.columns] as number)
  }
  return multiply(scaled, transpose(v))
}

/**
 * Moore and Penrose's inverse `[n, m]` of `a` `[m, n]`.
 *
 * @param tolerance singular values at or below this fraction of the largest count as zero. Default max(m, n) · 2^-52
 * @throws MathError when `a` is not finite
 */
export function pseudoInverse(a: MatrixLike, tolerance = Math.max(a.rows, a.columns) * Number.EPSILON): Matrix {
  const { u, values, v } = svd(a)
  const limit = tolerance * (values[0] ?? 0)
  // Below 2^-1022 a value has no finite inverse.
  const inverse = values.map((s) => (s > limit && s >= 2 ** -1022 ? 1 / s : 0))
  return fromSvd({ u: v, values: inverse, v: u })
}
