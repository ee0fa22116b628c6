/** Orthonormal columns by Gram and Schmidt's method, and random rotations made with it. */
import { MathError, requireInteger } from './errors'
import { checkMatrix, type Matrix, type MatrixLike, matrix, transpose } from './matrix'
import { seededRandom } from './random'

/**
 * Orthonormal basis `[m, r]` of the columns of `a` `[m, n]`, r <= min(m, n) its numerical rank; column order as in `a`.
 * Gram-Schmidt applied twice, orthogonal to rounding (Giraud et al., Numerische Mathematik 101, 2005).
 *
 * @param tolerance a column counts as dependent when less than this fraction of its length is left. Default 1e-12
 * @throws MathError when `a` is not finite
 */
export function orthonormalColumns(a: MatrixLike, tolerance = 1e-12): Matrix {
  checkMatrix('orthonormalColumns', 'a', a)
  const columns = transpose(a)
  const m = a.rows
  const basis: Float64Array[] = []
  for (let j = 0; j < a.columns && basis.length < m; j++) {
    const column = columns.data.slice(j * m, (j + 1) * m)
    const before = norm(column)
    for (let pass = 0; pass < 2; pass++) {
      for (const done of basis) {
        const along = dot(done, column)
        for (let i = 0; i < m; i++) column[i] = (column[i] as number) - along * (done[i] as number)
      }
    }
    const after = norm(column)
    if (!(after > tolerance * before)) continue
    for (let i = 0; i < m; i++) column[i] = (column[i] as number) / after
    basis.push(column)
  }
  const flat = matrix(basis.length, m)
  basis.forEach((column, j) => {
    flat.data.set(column, j * m)
  })
  return transpose(flat)
}

/**
 * A rotation or reflection `[n, n]`, uniform over the orthogonal group: orthonormalised Gaussian columns
 * (Stewart, SIAM J. Numer. Anal. 17, 1980). The same seed gives the same matrix everywhere.
 *
 * @throws MathError when n is below 1
 */
export function randomOrthogonal(n: number, seed: number): Matrix {
  requireInteger('randomOrthogonal', 'n', n, 1)
  return orthonormalColumns({ rows: n, columns: n, data: seededRandom(seed).gaussians(n * n) })
}

/** a · b, summed in rising order. */
export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number)
  return sum
}

/** Euclidean length. */
export function norm(a: ArrayLike<number>): number {
  return Math.sqrt(dot(a, a))
}

/**
 * Cosine of the angle between two vectors of the same length; 0 when one of them is zero.
 *
 * @throws MathError when the lengths differ
 */
export function cosineSimilarity(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) {
    throw new MathError(
      'cosineSimilarity',
      `lengths ${a.length} and ${b.length}`,
      'equal lengths',
      'Flatten both alike.',
    )
  }
  const lengths = norm(a) * norm(b)
  return lengths === 0 ? 0 : Math.max(-1, Math.min(1, dot(a, b) / lengths))
}
