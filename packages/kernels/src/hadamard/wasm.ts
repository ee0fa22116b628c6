import { type TensorInfo, util } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { hadamardName } from './reference'

export const hadamardWasm = wasmKernel<{ rows: TensorInfo }, { block: number }>(
  hadamardName,
  ({ rows }, { block }, runtime) => {
    const output = runtime.makeOutput(rows.shape, 'float32')
    runtime.functions.hadamard(
      runtime.pointerOf(rows),
      runtime.pointerOf(output),
      util.sizeFromShape(rows.shape),
      block,
    )
    return output
  },
)
