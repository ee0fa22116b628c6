/** The stage that codes what leaves the device. */
import type { HostTensor } from './values'

/** The shape and type of a tensor that was coded. */
export interface TensorForm {
  readonly shape: readonly number[]
  readonly dtype: 'float32' | 'int32'
}

/**
 * Codes tensors that leave the device, without loss: rows in host memory (a recall's host tier) and rows in saved caches. What it makes of a
 * tensor may have any length. On the device rows lie as the other stages made them, so nothing that attention reads becomes slower.
 */
export interface Lossless {
  /** Codes a tensor, in which rows run along axis 1: `[heads, rows, ...]`. */
  encode(tensor: HostTensor): Uint8Array
  /** Gives back the very bits that were coded. @throws Error for bytes that `encode` did not make of such a tensor */
  decode(bytes: Uint8Array, form: TensorForm): HostTensor
}
