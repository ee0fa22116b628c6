import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel } from '../kernel'

export const hasNonFiniteName = 'KvloomHasNonFinite'

/** 1 when a value is NaN or beyond the limit in magnitude, else 0. */
export const hasNonFiniteReference = cpuKernel<{ x: TensorInfo }, { limit: number }>(
  hasNonFiniteName,
  ({ x }, { limit }, storage) => {
    const output = storage.makeOutput([1], 'int32')
    storage.int32(output)[0] = storage.float32(x).every((value) => Math.abs(value) <= limit) ? 0 : 1
    return output
  },
)
