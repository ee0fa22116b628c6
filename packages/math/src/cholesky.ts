/** Cholesky's method for symmetric positive definite systems, in place, rows contiguous. */
import { MathError } from './errors'
import { type Matrix, type MatrixLike, matrix } from './matrix'

/**
 * Solves `a` X = `b` for `a` `[n, n]` symmetric positive definite (its lower triangle is read) and `b` `[n, q]`: `[n, q]`.
 *
 * @throws MathError when the shapes do not agree or `a` is not positive definite to rounding
 */
export function solveSymmetric(a: MatrixLike, b: MatrixLike): Matrix {
  const n = a.rows
  if (a.columns !== n || b.rows !== n) {
    throw new MathError(
      'solveSymmetric',
      `[${n}, ${a.columns}] and [${b.rows}, ${b.columns}]`,
      '[n, n] and [n, q]',
      'Check the shapes.',
    )
  }
  const lower = factor(a)
  const x = matrix(n, b.columns, b.data)
  const row = (i: number) => x.data.subarray(i * x.columns, (i + 1) * x.columns)
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < i; k++) subtract(row(i), lower.data[i * n + k] as number, row(k))
    divide(row(i), lower.data[i * n + i] as number)
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let k = i + 1; k < n; k++) subtract(row(i), lower.data[k * n + i] as number, row(k))
    divide(row(i), lower.data[i * n + i] as number)
  }
  return x
}

/** L with a = L Lᵀ, lower triangle. */
function factor(a: MatrixLike): Matrix {
  const n = a.rows
  const lower = matrix(n, n)
  const l = lower.data
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = a.data[i * n + j] as number
      for (let k = 0; k < j; k++) sum -= (l[i * n + k] as number) * (l[j * n + k] as number)
      if (j < i) {
        l[i * n + j] = sum / (l[j * n + j] as number)
        continue
      }
      // What rounding alone may leave of a dependent row.
      if (!(sum > n * Number.EPSILON * Math.abs(a.data[i * n + i] as number))) {
        throw new MathError(
          'solveSymmetric',
          `a matrix whose row ${i} depends on the rows before`,
          'a positive definite matrix',
          'Raise the damping, or add more samples than columns.',
        )
      }
      l[i * n + i] = Math.sqrt(sum)
    }
  }
  return lower
}

function subtract(to: Float64Array, factorOf: number, from: Float64Array): void {
  for (let j = 0; j < to.length; j++) to[j] = (to[j] as number) - factorOf * (from[j] as number)
}

function divide(row: Float64Array, by: number): void {
  for (let j = 0; j < row.length; j++) row[j] = (row[j] as number) / by
}
