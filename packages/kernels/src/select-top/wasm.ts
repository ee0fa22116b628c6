import type { TensorInfo } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { type SelectTop, selectTopName } from './reference'

const histogramBytes = 1024

export const selectTopWasm = wasmKernel<{ scores: TensorInfo }, SelectTop>(
  selectTopName,
  ({ scores }, { k }, runtime) => {
    const [heads = 0, n = 0] = scores.shape
    const output = runtime.makeOutput([heads, k], 'int32')
    if (k > 0)
      runtime.withScratch(histogramBytes, (scratch) =>
        runtime.functions.selectTop(runtime.pointerOf(scores), heads, n, k, runtime.pointerOf(output), scratch),
      )
    return output
  },
)
