/** The decomposition of DecoQuant (arXiv 2405.12591, section 3.2) and the row quantizer of its large factor, in float64. */
import { roundHalfEven } from '@kvloom/kernels'
import { matrix, svd } from '@kvloom/math'

/** What the authors add to singular values before they take roots, so that those of 0 stay 0. */
const EPSILON = 1e-6
/** The authors' smallest largest magnitude of a row. */
const SMALLEST = 1e-5

/** A block of rows as a product, `rows = large · small`. */
export interface Factors {
  /** `[rows, pieces * rank]`, where `rank` is the smaller of `rows * pieces` and `channels`. */
  readonly large: Float64Array
  /** `[rank, channels]`; the largest number of each of its rows is positive. */
  readonly small: Float64Array
  /** `[rank]`, falling. */
  readonly singular: Float64Array
  readonly rank: number
}

/**
 * Splits rows `[n, dim]` into pieces of `channels` adjacent numbers, A = `[n * dim / channels, channels]` = U S V^T, and shares S out between
 * both factors: U S^(1/2) and S^(1/2) V^T. Nothing is cut off.
 */
export function decompose(rows: ArrayLike<number>, channels: number): Factors {
  const pieces = rows.length / channels
  const { u, values: singular, v } = svd(matrix(pieces, channels, rows))
  const rank = singular.length
  const shares = singular.map((s) => s / Math.sqrt(s + EPSILON))
  const share = (i: number): number => shares[i] ?? 0
  return {
    large: Float64Array.from({ length: pieces * rank }, (_, at) => (u.data[at] ?? 0) * share(at % rank)),
    small: Float64Array.from({ length: rank * channels }, (_, at) => {
      const [i, channel] = [Math.floor(at / channels), at % channels]
      return share(i) * (v.data[channel * rank + i] ?? 0)
    }),
    singular,
    rank,
  }
}

/** Rows of whole numbers between -(2^(bits - 1) - 1) and 2^(bits - 1) - 1, and by what each is multiplied. */
export interface Levels {
  /** `[rows, width]` */
  readonly levels: Float32Array
  /** `[rows]` */
  readonly scales: Float32Array
}

/** The largest level of a code of `bits` bits. */
export const largestLevel = (bits: number): number => 2 ** (bits - 1) - 1

/** Symmetric absmax quantization of each row of `[rows, width]`. `stored` rounds a scale to what is stored of it. */
export function quantizeRows(
  large: Float64Array,
  rows: number,
  bits: number,
  stored: (scale: number) => number,
): Levels {
  const width = large.length / rows
  const top = largestLevel(bits)
  const levels = new Float32Array(large.length)
  const scales = new Float32Array(rows)
  for (let row = 0; row < rows; row++) {
    let most = SMALLEST
    for (let at = row * width; at < (row + 1) * width; at++) most = Math.max(most, Math.abs(large[at] ?? 0))
    const scale = stored(most / top)
    scales[row] = scale
    for (let at = row * width; at < (row + 1) * width; at++)
      levels[at] = Math.min(top, Math.max(-top, roundHalfEven((large[at] ?? 0) / scale)))
  }
  return { levels, scales }
}
