import type { Tensor } from '@tensorflow/tfjs-core'
import { checkTensor } from '../check'
import { KernelInputError } from '../errors'
import { dispatch } from '../kernel'
import { hasNonFiniteName } from './reference'

/** Largest finite float32. */
const largestFloat = 3.4028234663852886e38

/**
 * Whether tensors hold a NaN, an infinity, or a number beyond `limit` (65504: what f16 rows can hold). The answers stay on the device: read
 * them where waiting is allowed, all of them at once.
 * @param x float32, any shape; one, or several
 * @param limit largest magnitude allowed: one for all, or one for each; default every finite float32
 * @returns int32 [number of tensors]: 1 when there is one in it, else 0
 * @throws KernelInputError when a tensor is not float32, or there are not as many limits as tensors
 */
export function hasNonFinite(x: Tensor | readonly Tensor[], limit: number | readonly number[] = largestFloat): Tensor {
  const where = 'hasNonFinite'
  const tensors: readonly Tensor[] = Array.isArray(x) ? x : [x]
  const limits = typeof limit === 'number' ? tensors.map(() => limit) : limit
  if (tensors.length === 0 || limits.length !== tensors.length)
    throw new KernelInputError({
      where,
      given: `${tensors.length} tensors and ${limits.length} limits`,
      allowed: 'at least one tensor, and one limit for all or one for each',
      cure: 'Give a limit for each tensor.',
    })
  const inputs: Record<string, Tensor> = {}
  for (const [i, tensor] of tensors.entries()) {
    checkTensor(where, tensors.length === 1 ? 'x' : `x[${i}]`, tensor, 'float32', tensor.shape)
    inputs[`x${i}`] = tensor
  }
  return dispatch(hasNonFiniteName, inputs, { limits })
}
