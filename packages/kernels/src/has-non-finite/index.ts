import type { Tensor } from '@tensorflow/tfjs-core'
import { checkTensor } from '../check'
import { dispatch } from '../kernel'
import { hasNonFiniteName } from './reference'

/** Largest finite float32. */
const largestFloat = 3.4028234663852886e38

/**
 * Whether a tensor holds a NaN, an infinity, or a number beyond `limit` (65504: what f16 rows can hold). The answer stays on the device: read it where waiting is allowed.
 * @param x float32, any shape
 * @param limit largest magnitude allowed; default every finite float32
 * @returns int32 [1]: 1 when there is one, else 0
 * @throws KernelInputError when x is not float32
 */
export function hasNonFinite(x: Tensor, limit = largestFloat): Tensor {
  checkTensor('hasNonFinite', 'x', x, 'float32', x.shape)
  return dispatch(hasNonFiniteName, { x }, { limit })
}
