import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel } from '../kernel'

export const rmsNormName = 'KvloomRmsNorm'

export type RmsNormInputs = { x: TensorInfo; weight: TensorInfo }

/** y = x / sqrt(mean(x²) + epsilon) · weight, per row; the mean in float64. */
export const rmsNormReference = cpuKernel<RmsNormInputs, { epsilon: number }>(
  rmsNormName,
  ({ x, weight }, { epsilon }, storage) => {
    const [rows = 0, width = 0] = x.shape
    const xValues = storage.float32(x)
    const weightValues = storage.float32(weight)
    const output = storage.makeOutput(x.shape, 'float32')
    const outputValues = storage.float32(output)
    for (let row = 0; row < rows; row++) {
      let sum = 0
      for (let i = row * width; i < (row + 1) * width; i++) sum += (xValues[i] ?? 0) ** 2
      const scale = 1 / Math.sqrt(sum / width + epsilon)
      for (let k = 0; k < width; k++)
        outputValues[row * width + k] = (xValues[row * width + k] ?? 0) * scale * (weightValues[k] ?? 0)
    }
    return output
  },
)
