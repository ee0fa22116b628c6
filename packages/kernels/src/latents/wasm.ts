import type { TensorInfo } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { latentSizes, type ThroughLatents, throughLatentsName } from './reference'

export const throughLatentsWasm = wasmKernel<{ x: TensorInfo; up: TensorInfo }, ThroughLatents>(
  throughLatentsName,
  ({ x, up }, attributes, runtime) => {
    const { kvHeads, back } = attributes
    const { each, rank, dim, rows, output: shape } = latentSizes(x.shape, up.shape, attributes)
    const output = runtime.makeOutput(shape, 'float32')
    runtime.functions.throughLatents(
      runtime.pointerOf(x),
      runtime.pointerOf(up),
      kvHeads,
      each,
      rows,
      rank,
      dim,
      back ? 1 : 0,
      runtime.pointerOf(output),
    )
    return output
  },
)
