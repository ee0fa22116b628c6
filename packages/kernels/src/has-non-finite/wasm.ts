import { type TensorInfo, util } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { hasNonFiniteName } from './reference'

export const hasNonFiniteWasm = wasmKernel<{ x: TensorInfo }, { limit: number }>(
  hasNonFiniteName,
  ({ x }, { limit }, runtime) => {
    const output = runtime.makeOutput([1], 'int32')
    runtime.int32(output)[0] = runtime.functions.anyBeyond(runtime.pointerOf(x), util.sizeFromShape(x.shape), limit)
    return output
  },
)
