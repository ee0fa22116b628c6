/**
 * Offline value calibration: the maps of values, fitted on what a layer's values will be once the layers before it are compressed. All
 * of it is of outputs y = W x alone: the latent P y equals what the factorised weight P W gives for x.
 */
import { type Matrix, matrix, multiply, pseudoInverse, symmetricEigen, transpose } from '@kvloom/math'

/** Rows y `[tokens, width]` become latents y · downᵀ and are decoded as latents · upᵀ. */
export interface Maps {
  /** `[rank, width]` */
  readonly down: Matrix
  /** `[width, rank]` */
  readonly up: Matrix
}

/** The uncentred covariance `[width, width]` of rows. */
export const covarianceOf = (rows: Matrix): Matrix => multiply(transpose(rows), rows)

/** The leading directions of rows with this covariance: whitening the inputs and cutting the SVD of the weight gives the same. */
export function principalMaps(covariance: Matrix, rank: number): Maps {
  const { vectors } = symmetricEigen(covariance)
  const up = matrix(covariance.rows, rank)
  up.data.forEach((_, at) => {
    up.data[at] = vectors.data[Math.floor(at / rank) * vectors.columns + (at % rank)] ?? 0
  })
  return { up, down: transpose(up) }
}

/**
 * One round of calibration: `up` by least squares of the rows on their latents, then `down` as its pseudo-inverse.
 * @param covariance of the rows to calibrate on. On those that `maps` come from it changes nothing
 */
export function calibrated({ down }: Maps, covariance: Matrix): Maps {
  const withLatents = multiply(covariance, transpose(down)) // Yᵀ C
  const up = multiply(withLatents, pseudoInverse(multiply(down, withLatents)))
  return { up, down: pseudoInverse(up) }
}

/** Some columns of a matrix, in this order. */
export function columnsOf({ rows, columns, data }: Matrix, chosen: readonly number[]): Matrix {
  const result = matrix(rows, chosen.length)
  for (let row = 0; row < rows; row++)
    for (const [at, column] of chosen.entries())
      result.data[row * chosen.length + at] = data[row * columns + column] ?? 0
  return result
}
