import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger, checkTensor } from '../check'
import { KernelInputError } from '../errors'
import { dispatch } from '../kernel'
import { mergeHeadsName, splitHeadsName } from './reference'

/**
 * Heads beside each other → heads one after the other, as the cache wants them.
 * @param x float32 [n, heads · dim]
 * @param heads at least 1; divides the width of x
 * @returns float32 [heads, n, dim]
 * @throws KernelInputError when x has another shape or dtype, or heads does not divide its width
 */
export function splitHeads(x: Tensor, heads: number): Tensor {
  checkTensor('splitHeads', 'x', x, 'float32', ['n', 'heads * dim'])
  checkInteger('splitHeads', 'heads', heads, 1)
  const width = x.shape[1] ?? 0
  if (width % heads !== 0) {
    throw new KernelInputError({
      where: 'splitHeads',
      given: `${heads} heads for a width of ${width}`,
      allowed: 'a divisor of the width',
      cure: "Check the model's number of heads.",
    })
  }
  return dispatch(splitHeadsName, { x }, { heads })
}

/**
 * The inverse of `splitHeads`.
 * @param x float32 [heads, n, dim]
 * @returns float32 [n, heads · dim]
 * @throws KernelInputError when x has another shape or dtype
 */
export function mergeHeads(x: Tensor): Tensor {
  checkTensor('mergeHeads', 'x', x, 'float32', ['heads', 'n', 'dim'])
  return dispatch(mergeHeadsName, { x })
}
