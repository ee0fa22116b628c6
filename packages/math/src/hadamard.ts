/** Sylvester's Hadamard matrices in natural order, as HIGGS and rotations use them (arXiv 2411.17525). */
import { MathError } from './errors'
import { checkMatrix, type Matrix, type MatrixLike, matrix } from './matrix'

/**
 * Sylvester's matrix `[n, n]` of ±1: entry (i, j) is -1 to the number of bits that i and j share. H Hᵀ = n I.
 *
 * @throws MathError unless n is a power of two
 */
export function hadamardMatrix(n: number): Matrix {
  requirePowerOfTwo('hadamardMatrix', n)
  const out = matrix(n, n)
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      let shared = i & j
      let odd = 0
      for (; shared !== 0; shared &= shared - 1) odd ^= 1
      out.data[i * n + j] = odd ? -1 : 1
    }
  }
  return out
}

/**
 * Every row of `x` `[rows, n]` times Sylvester's matrix, not normalised (divide by √n for a rotation, by n to undo it), in
 * n log n additions.
 *
 * @throws MathError unless n is a power of two
 */
export function hadamardTransform(x: MatrixLike): Matrix {
  const n = x.columns
  requirePowerOfTwo('hadamardTransform', n)
  checkMatrix('hadamardTransform', 'x', x)
  const out = matrix(x.rows, n, x.data)
  for (let half = 1; half < n; half *= 2) {
    for (let at = 0; at < out.data.length; at += 2 * half) {
      for (let i = at; i < at + half; i++) {
        const a = out.data[i] as number
        const b = out.data[i + half] as number
        out.data[i] = a + b
        out.data[i + half] = a - b
      }
    }
  }
  return out
}

function requirePowerOfTwo(where: string, n: number): void {
  if (Number.isInteger(n) && n >= 1 && Number.isInteger(Math.log2(n))) return
  throw new MathError(where, `size ${n}`, 'a power of two', 'Pad with zeros to the next power of two.')
}
