import { type TensorInfo, util } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { swiGluName } from './reference'

export const swiGluWasm = wasmKernel<{ gate: TensorInfo; up: TensorInfo }, Record<string, never>>(
  swiGluName,
  ({ gate, up }, _, runtime) => {
    const output = runtime.makeOutput(gate.shape, 'float32')
    runtime.functions.swiGlu(
      runtime.pointerOf(gate),
      runtime.pointerOf(up),
      runtime.pointerOf(output),
      util.sizeFromShape(gate.shape),
    )
    return output
  },
)
