import type { TensorInfo } from '@tensorflow/tfjs-core'
import { KernelInputError } from '../errors'
import { cpuKernel } from '../kernel'

export const ropeName = 'KvloomRope'

export type RopeInputs = { x: TensorInfo; cos: TensorInfo; sin: TensorInfo; positions: TensorInfo }

/** y_j = x_j cos - x_{j+p} sin, y_{j+p} = x_{j+p} cos + x_j sin for j < p = pairs; other channels pass through. */
export const ropeReference = cpuKernel<RopeInputs, { inverse: boolean }>(
  ropeName,
  ({ x, cos, sin, positions }, { inverse }, storage) => {
    const [heads = 0, rows = 0, dim = 0] = x.shape
    const [tableRows = 0, pairs = 0] = cos.shape
    const xValues = storage.float32(x)
    const cosValues = storage.float32(cos)
    const sinValues = storage.float32(sin)
    const positionValues = storage.int32(positions)
    checkPositions(positionValues, tableRows)
    const output = storage.makeOutput(x.shape, 'float32')
    const outputValues = storage.float32(output)
    outputValues.set(xValues)
    const sign = inverse ? -1 : 1
    for (let head = 0; head < heads; head++) {
      for (let row = 0; row < rows; row++) {
        const from = (head * rows + row) * dim
        const position = positionValues[positions.shape.length === 2 ? head * rows + row : row] ?? 0
        for (let j = 0; j < pairs; j++) {
          const c = cosValues[position * pairs + j] ?? 0
          const s = (sinValues[position * pairs + j] ?? 0) * sign
          const [first, second] = [xValues[from + j] ?? 0, xValues[from + pairs + j] ?? 0]
          outputValues[from + j] = first * c - second * s
          outputValues[from + pairs + j] = second * c + first * s
        }
      }
    }
    return output
  },
)

/** Kernels on the host see the positions at once and refuse those outside the tables. */
export function checkPositions(positions: Int32Array, tableRows: number): void {
  const wrong = positions.find((position) => position < 0 || position >= tableRows)
  if (wrong === undefined) return
  throw new KernelInputError({
    where: 'rope',
    given: `position ${wrong}`,
    allowed: `0 to ${tableRows - 1}`,
    cure: 'Make longer cos and sin tables.',
  })
}
