import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger, checkTensor } from '../check'
import { checkHadamardBlock } from '../codebook/layout'
import { dispatch } from '../kernel'
import { hadamardName } from './reference'

/**
 * Orthonormal Hadamard transform (Sylvester's matrix in natural order, divided by sqrt(block)) of each block of consecutive channels; its own inverse.
 * @param rows float32 [heads, n, dim]
 * @param block power of two that divides dim
 * @returns float32 [heads, n, dim]; the same bits on every backend
 * @throws KernelInputError when the block does not fit
 */
export function hadamard(rows: Tensor, block: number): Tensor {
  checkTensor('hadamard', 'rows', rows, 'float32', ['heads', 'n', 'dim'])
  checkInteger('hadamard', 'block', block, 1)
  checkHadamardBlock('hadamard', block, rows.shape[2] ?? 0)
  return dispatch(hadamardName, { rows }, { block })
}
