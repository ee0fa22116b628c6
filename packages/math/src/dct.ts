/**
 * Orthonormal DCT-II and its inverse DCT-III along the rows of a matrix (tokens), and the low-pass map of FreqKV
 * (arXiv 2505.00570, section 3.2) made from them.
 */
import { requireInteger } from './errors'
import { cosOfPi } from './exact'
import { checkMatrix, type Matrix, type MatrixLike, matrix, multiply, transpose } from './matrix'

/**
 * The first `keep` rows of the orthonormal DCT-II matrix `[keep, n]`: row k is √((k ? 2 : 1) / n) cos(π (2i + 1) k / 2n).
 *
 * @throws MathError unless 1 <= keep <= n
 */
export function dctMatrix(n: number, keep = n): Matrix {
  requireInteger('dctMatrix', 'n', n, 1)
  requireInteger('dctMatrix', 'keep', keep, 1, n)
  const out = matrix(keep, n)
  for (let k = 0; k < keep; k++) {
    const scale = Math.sqrt((k === 0 ? 1 : 2) / n)
    for (let i = 0; i < n; i++) out.data[k * n + i] = scale * cosOfPi((2 * i + 1) * k, 2 * n)
  }
  return out
}

/** DCT-II of every column of `x` `[n, channels]`: coefficients `[n, channels]`. @throws MathError when x is empty or not finite */
export function dct2(x: MatrixLike): Matrix {
  checkMatrix('dct2', 'x', x)
  return multiply(dctMatrix(x.rows), x)
}

/** DCT-III, the inverse of `dct2`: from coefficients `[n, channels]` to `[n, channels]`. @throws MathError as `dct2` */
export function dct3(coefficients: MatrixLike): Matrix {
  checkMatrix('dct3', 'coefficients', coefficients)
  return multiply(transpose(dctMatrix(coefficients.rows)), coefficients)
}

/**
 * The map `[to, from]` that keeps the `to` lowest of `from` frequencies and resamples: √(to / from) · DCT-III(to) · DCT-II(from)[:to].
 * Constants stay constant, `to = from` is the identity.
 *
 * Its sum over frequencies is a difference and a sum of angles, each in closed form (Dirichlet's kernel D), so that an entry costs
 * the same however many frequencies there are:
 *
 *   A[i, n] = (D(α - β) + D(α + β)) / 2 from    α = π (2i + 1) / 2 to    β = π (2n + 1) / 2 from
 *   D(θ) = 1 + 2 Σ_k<to cos(kθ) = sin((to - 1/2) θ) / sin(θ / 2)
 *
 * @throws MathError unless 1 <= to <= from
 */
export function lowPassMatrix(from: number, to: number): Matrix {
  requireInteger('lowPassMatrix', 'from', from, 1)
  requireInteger('lowPassMatrix', 'to', to, 1, from)
  const out = matrix(to, from)
  const turn = 4 * from * to // angles are θ = 2π p / turn, with whole numbers p
  for (let i = 0; i < to; i++)
    for (let n = 0; n < from; n++) {
      const [alpha, beta] = [(2 * i + 1) * from, (2 * n + 1) * to]
      out.data[i * from + n] = (dirichlet(alpha - beta, turn, to) + dirichlet(alpha + beta, turn, to)) / (2 * from)
    }
  return out
}

/** D(2π p / turn) over the `to` lowest frequencies. */
function dirichlet(p: number, turn: number, to: number): number {
  const rest = Math.abs(p) % turn
  return rest === 0 ? 2 * to - 1 : sinOfPi(rest * (2 * to - 1), turn) / sinOfPi(rest, turn)
}

/** sin(π · numerator / denominator) for an even denominator, reduced exactly. */
const sinOfPi = (numerator: number, denominator: number): number => cosOfPi(numerator - denominator / 2, denominator)
