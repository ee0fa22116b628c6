/** How alike heads are: linear CKA (centered kernel alignment) of their features. */
import { type Matrix, matrix, multiply, transpose } from '@kvloom/math'

/**
 * Linear CKA of every pair of heads, `[heads, heads]`: ‖AᵀB‖² / (‖AᵀA‖ ‖BᵀB‖) of features with centred columns. A head whose features are
 * constant is like no other.
 * @param features `[samples, heads · dim]`, the heads side by side
 */
export function headSimilarity(features: Matrix, heads: number): Matrix {
  const centred = centre(features)
  const { data, columns } = multiply(transpose(centred), centred)
  const dim = columns / heads
  const cross = matrix(heads, heads)
  data.forEach((x, at) => {
    const pair = Math.floor(Math.floor(at / columns) / dim) * heads + Math.floor((at % columns) / dim)
    cross.data[pair] = (cross.data[pair] ?? 0) + x * x
  })
  const self = (i: number) => Math.sqrt(cross.data[i * heads + i] ?? 0)
  return matrix(
    heads,
    heads,
    cross.data.map((x, at) => {
      const norm = self(Math.floor(at / heads)) * self(at % heads)
      return norm > 0 ? x / norm : 0
    }),
  )
}

function centre({ rows, columns, data }: Matrix): Matrix {
  const means = new Float64Array(columns)
  data.forEach((x, at) => {
    means[at % columns] = (means[at % columns] ?? 0) + x / rows
  })
  return matrix(
    rows,
    columns,
    data.map((x, at) => x - (means[at % columns] ?? 0)),
  )
}
