import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel, type KernelInputs } from '../kernel'

export const hasNonFiniteName = 'KvloomHasNonFinite'

/** For each of the inputs x0, x1, ...: 1 when a value is NaN or beyond its limit in magnitude, else 0. */
export const hasNonFiniteReference = cpuKernel<KernelInputs, { limits: readonly number[] }>(
  hasNonFiniteName,
  (inputs, { limits }, storage) => {
    const output = storage.makeOutput([limits.length], 'int32')
    const flags = storage.int32(output)
    for (const [i, limit] of limits.entries())
      flags[i] = storage.float32(inputs[`x${i}`] as TensorInfo).every((value) => Math.abs(value) <= limit) ? 0 : 1
    return output
  },
)
