import type { Tensor } from '@tensorflow/tfjs-core'
import { checkTensor } from '../check'
import { dispatch } from '../kernel'
import { swiGluName } from './reference'

/** wasm against the reference: relative to 1 + |reference|; the wasm exponential is good to 2e-7. */
export const swiGluTolerance = 1e-6

/**
 * The gated activation of Llama's MLP: `silu(gate) * up`.
 * @param gate float32, any shape
 * @param up float32, the same shape
 * @returns float32, the same shape
 * @throws KernelInputError when dtypes or shapes differ
 */
export function swiGlu(gate: Tensor, up: Tensor): Tensor {
  checkTensor('swiGlu', 'gate', gate, 'float32', gate.shape)
  checkTensor('swiGlu', 'up', up, 'float32', gate.shape)
  return dispatch(swiGluName, { gate, up })
}
