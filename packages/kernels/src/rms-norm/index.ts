import type { Tensor } from '@tensorflow/tfjs-core'
import { checkTensor } from '../check'
import { KernelInputError } from '../errors'
import { dispatch } from '../kernel'
import { rmsNormName } from './reference'

/** wasm against the reference, relative to 1 + |reference|: float32 sums of squares against float64 ones. */
export const rmsNormTolerance = 3e-6

/**
 * Root-mean-square normalisation of rows: `x / sqrt(mean(x²) + epsilon) · weight`.
 * @param x float32 [n, hidden]; for a norm per head, reshape to [heads · n, dim]
 * @param weight float32 [hidden]
 * @param epsilon at least 0, as in the model's configuration (1e-5, 1e-6)
 * @returns float32 [n, hidden]
 * @throws KernelInputError when shapes, dtypes or epsilon do not fit
 */
export function rmsNorm(x: Tensor, weight: Tensor, epsilon: number): Tensor {
  checkTensor('rmsNorm', 'x', x, 'float32', ['n', 'hidden'])
  checkTensor('rmsNorm', 'weight', weight, 'float32', [x.shape[1] ?? 0])
  if (!(epsilon >= 0 && epsilon < Infinity)) {
    throw new KernelInputError({
      where: 'rmsNorm',
      given: `epsilon = ${epsilon}`,
      allowed: 'a number of at least 0',
      cure: "Take the model's configured value.",
    })
  }
  return dispatch(rmsNormName, { x, weight }, { epsilon })
}
