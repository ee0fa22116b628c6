import type { Tensor } from '@tensorflow/tfjs-core'
import { checkTensor } from '../check'
import { dispatch } from '../kernel'
import { embeddingRowsName, matmulPackedName, unpackWeightName } from './reference'
import { type PackedWeight, panelsOf } from './weight'

/** wasm against the reference, relative to 1 + |reference|, for up to 1536 columns of unit scale: float32 sums against float64 ones. */
export const matmulPackedTolerance = 3e-5

/** wasm against the reference for unpacked weights, relative to 1 + |reference|: one rounding more in q6_k. */
export const unpackTolerance = 1e-6

/**
 * Matrix product with a packed weight: `y = x · wᵀ`. Activations are not rounded to the weight's precision; a non-finite activation makes its whole row of y NaN on wasm.
 * @param x float32 [n, inFeatures]
 * @param weight made by `packWeight`
 * @returns float32 [n, outFeatures]
 * @throws KernelInputError when x does not fit the weight, or the weight was disposed
 */
export function matmulPacked(x: Tensor, weight: PackedWeight): Tensor {
  const panels = panelsOf('matmulPacked', weight)
  checkTensor('matmulPacked', 'x', x, 'float32', ['n', weight.inFeatures])
  return dispatch(matmulPackedName, { x, panels }, attributesOf(weight))
}

/**
 * Rows of a packed weight, as a token embedding (tied embeddings share the output matrix).
 * @param weight [vocabulary, hidden], made by `packWeight`
 * @param ids int32 [n], each from 0 to outFeatures - 1
 * @returns float32 [n, inFeatures]
 * @throws KernelInputError when ids have another shape or dtype, or (cpu and wasm) lie outside the weight
 */
export function embeddingRows(weight: PackedWeight, ids: Tensor): Tensor {
  const panels = panelsOf('embeddingRows', weight)
  checkTensor('embeddingRows', 'ids', ids, 'int32', ['n'])
  return dispatch(embeddingRowsName, { panels, ids }, attributesOf(weight))
}

/**
 * The whole weight as plain numbers, for methods that analyse weights.
 * @returns float32 [outFeatures, inFeatures]
 * @throws KernelInputError when the weight was disposed
 */
export function unpackWeight(weight: PackedWeight): Tensor {
  return dispatch(unpackWeightName, { panels: panelsOf('unpackWeight', weight) }, attributesOf(weight))
}

function attributesOf({ format, inFeatures, outFeatures }: PackedWeight): {
  format: string
  inFeatures: number
  outFeatures: number
} {
  return { format, inFeatures, outFeatures }
}
