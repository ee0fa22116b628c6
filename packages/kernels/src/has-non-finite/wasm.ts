import { type TensorInfo, util } from '@tensorflow/tfjs-core'
import { type KernelInputs, wasmKernel } from '../kernel'
import { hasNonFiniteName } from './reference'

export const hasNonFiniteWasm = wasmKernel<KernelInputs, { limits: readonly number[] }>(
  hasNonFiniteName,
  (inputs, { limits }, runtime) => {
    const output = runtime.makeOutput([limits.length], 'int32')
    const flags = limits.map((limit, i) => {
      const x = inputs[`x${i}`] as TensorInfo
      return runtime.functions.anyBeyond(runtime.pointerOf(x), util.sizeFromShape(x.shape), limit)
    })
    runtime.int32(output).set(flags)
    return output
  },
)
