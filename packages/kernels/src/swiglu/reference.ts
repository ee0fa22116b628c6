import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel } from '../kernel'

export const swiGluName = 'KvloomSwiGlu'

/** silu(gate) * up, silu(g) = g / (1 + exp(-g)). */
export const swiGluReference = cpuKernel<{ gate: TensorInfo; up: TensorInfo }, Record<string, never>>(
  swiGluName,
  ({ gate, up }, _, storage) => {
    const gateValues = storage.float32(gate)
    const upValues = storage.float32(up)
    const output = storage.makeOutput(gate.shape, 'float32')
    const outputValues = storage.float32(output)
    for (let i = 0; i < outputValues.length; i++) {
      const g = gateValues[i] ?? 0
      outputValues[i] = (g / (1 + Math.exp(-g))) * (upValues[i] ?? 0)
    }
    return output
  },
)
