/** Eigenvalues and vectors of symmetric matrices (ml-matrix: Householder tridiagonalisation and the QL method, as in EISPACK). */
import { EigenvalueDecomposition } from 'ml-matrix'
import { MathError } from './errors'
import { checkMatrix, fromMl, type Matrix, type MatrixLike, matrix, toMl } from './matrix'

export interface SymmetricEigen {
  /** `[n]`, falling. */
  readonly values: Float64Array
  /** `[n, n]`: column j belongs to `values[j]`; unit length, its largest component in size is positive. */
  readonly vectors: Matrix
}

/**
 * Decomposes `a` `[n, n]` = V diag(values) Vᵀ. Only (a + aᵀ) / 2 counts.
 *
 * @throws MathError when `a` is not square, not finite, or further from symmetric than 1e-6 of its largest entry
 */
export function symmetricEigen(a: MatrixLike): SymmetricEigen {
  checkMatrix('symmetricEigen', 'a', a)
  const n = a.rows
  if (a.columns !== n) {
    throw new MathError('symmetricEigen', `[${a.rows}, ${a.columns}]`, 'a square matrix', 'Pass aᵀa or a covariance.')
  }
  if (n === 0) return { values: new Float64Array(0), vectors: matrix(0, 0) }
  const even = matrix(n, n)
  let largest = 0
  let skew = 0
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const x = a.data[i * n + j] as number
      const y = a.data[j * n + i] as number
      even.data[i * n + j] = (x + y) / 2
      largest = Math.max(largest, Math.abs(x))
      skew = Math.max(skew, Math.abs(x - y))
    }
  }
  if (skew > 1e-6 * largest) {
    throw new MathError(
      'symmetricEigen',
      `a matrix that differs from its transpose by ${skew}`,
      'a symmetric matrix',
      'Use svd().',
    )
  }
  const found = new EigenvalueDecomposition(toMl(even), { assumeSymmetric: true })
  const values = found.realEigenvalues
  const order = values.map((_, i) => i).sort((i, j) => (values[j] as number) - (values[i] as number) || i - j)
  const raw = fromMl(found.eigenvectorMatrix)
  const vectors = matrix(n, n)
  order.forEach((from, to) => {
    for (let i = 0; i < n; i++) vectors.data[i * n + to] = raw.data[i * n + from] as number
  })
  fixSigns(vectors)
  return { values: Float64Array.from(order, (i) => values[i] as number), vectors }
}

/** Turns each column of `vectors`, and the same column of `others`, so that its largest component in size (the first of equals) is positive. */
export function fixSigns(vectors: Matrix, others?: Matrix): void {
  for (let j = 0; j < vectors.columns; j++) {
    let largest = 0
    for (let i = 0; i < vectors.rows; i++) {
      const x = vectors.data[i * vectors.columns + j] as number
      if (Math.abs(x) > Math.abs(largest)) largest = x
    }
    if (largest >= 0) continue
    for (const { rows, columns, data } of others ? [vectors, others] : [vectors]) {
      for (let i = 0; i < rows; i++) data[i * columns + j] = -(data[i * columns + j] as number)
    }
  }
}
