import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger, checkTensor } from '../check'
import { dispatch } from '../kernel'
import { selectTopName } from './reference'

/**
 * The k largest scores of each head, stable: of equal scores the lowest index wins. O(n).
 * Order is total: -0 below 0, NaN above infinity (below -infinity with its sign bit set).
 * @param scores float32 [heads, n]
 * @param k 0 to n
 * @returns int32 [heads, k], indices in ascending order
 * @throws KernelInputError when shape, dtype or k do not fit
 */
export function selectTop(scores: Tensor, k: number): Tensor {
  checkTensor('selectTop', 'scores', scores, 'float32', ['heads', 'n'])
  checkInteger('selectTop', 'k', k, 0, scores.shape[1] ?? 0)
  return dispatch(selectTopName, { scores }, { k })
}
