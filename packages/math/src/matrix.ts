/** The plain matrix of this package, row-major float64, and the few products the rest needs. */
import { Matrix as MlMatrix } from 'ml-matrix'
import { MathError, requireInteger } from './errors'

/** `[rows, columns]`, row-major: element (i, j) is `data[i * columns + j]`. */
export interface Matrix {
  readonly rows: number
  readonly columns: number
  readonly data: Float64Array
}

/** What functions take: a `Matrix`, or the same with float32 data (what a tensor's `data()` gives). */
export interface MatrixLike {
  readonly rows: number
  readonly columns: number
  readonly data: Float64Array | Float32Array
}

/**
 * A matrix `[rows, columns]`; without `data` all zeros, otherwise a copy of `data` (length rows · columns).
 *
 * @throws MathError when the sizes do not agree
 */
export function matrix(rows: number, columns: number, data?: ArrayLike<number>): Matrix {
  requireInteger('matrix', 'rows', rows, 0)
  requireInteger('matrix', 'columns', columns, 0)
  if (data && data.length !== rows * columns) {
    throw new MathError(
      'matrix',
      `${data.length} numbers for [${rows}, ${columns}]`,
      `${rows * columns} numbers`,
      'Check rows and columns.',
    )
  }
  return { rows, columns, data: data ? Float64Array.from(data) : new Float64Array(rows * columns) }
}

/** Checks that `a` holds rows · columns finite numbers. @throws MathError */
export function checkMatrix(where: string, name: string, a: MatrixLike): void {
  if (a.data.length !== a.rows * a.columns) {
    throw new MathError(
      where,
      `${name} [${a.rows}, ${a.columns}] with ${a.data.length} numbers`,
      `${a.rows * a.columns} numbers`,
      'Build it with matrix(rows, columns, data).',
    )
  }
  let sum = 0
  for (let i = 0; i < a.data.length; i++) sum += (a.data[i] as number) * 0
  if (sum !== 0)
    throw new MathError(where, `${name} with NaN or infinity`, 'finite numbers', 'Repair the input before.')
}

/** The identity `[n, n]`. */
export function identity(n: number): Matrix {
  const out = matrix(n, n)
  for (let i = 0; i < n; i++) out.data[i * n + i] = 1
  return out
}

/** Transpose of `a` `[m, n]`: `[n, m]`. */
export function transpose(a: MatrixLike): Matrix {
  const out = matrix(a.columns, a.rows)
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < a.columns; j++) out.data[j * a.rows + i] = a.data[i * a.columns + j] as number
  }
  return out
}

/**
 * Product of `a` `[m, k]` and `b` `[k, n]`: `[m, n]`. Sums run over k in rising order.
 *
 * @throws MathError when the inner sizes differ
 */
export function multiply(a: MatrixLike, b: MatrixLike): Matrix {
  if (a.columns !== b.rows) {
    throw new MathError(
      'multiply',
      `[${a.rows}, ${a.columns}] times [${b.rows}, ${b.columns}]`,
      'equal inner sizes',
      'Transpose one of them.',
    )
  }
  const out = matrix(a.rows, b.columns)
  const n = b.columns
  for (let i = 0; i < a.rows; i++) {
    const row = out.data.subarray(i * n, (i + 1) * n)
    for (let k = 0; k < a.columns; k++) {
      const factor = a.data[i * a.columns + k] as number
      if (factor === 0) continue
      const from = k * n
      for (let j = 0; j < n; j++) row[j] = (row[j] as number) + factor * (b.data[from + j] as number)
    }
  }
  return out
}

/** The first `count` columns of `a` `[m, n]`: `[m, count]`. @throws MathError unless 0 <= count <= n */
export function firstColumns(a: MatrixLike, count: number): Matrix {
  requireInteger('firstColumns', 'count', count, 0, a.columns)
  const out = matrix(a.rows, count)
  for (let i = 0; i < a.rows; i++) {
    out.data.set(a.data.subarray(i * a.columns, i * a.columns + count), i * count)
  }
  return out
}

/** Frobenius norm of `a`. */
export function frobeniusNorm(a: MatrixLike): number {
  let sum = 0
  for (let i = 0; i < a.data.length; i++) sum += (a.data[i] as number) ** 2
  return Math.sqrt(sum)
}

/** To ml-matrix, and back. */
export function toMl(a: MatrixLike): MlMatrix {
  return MlMatrix.from1DArray(a.rows, a.columns, a.data)
}
export function fromMl(a: MlMatrix): Matrix {
  const out = matrix(a.rows, a.columns)
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < a.columns; j++) out.data[i * a.columns + j] = a.get(i, j)
  }
  return out
}
