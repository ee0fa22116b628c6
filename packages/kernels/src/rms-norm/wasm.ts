import { wasmKernel } from '../kernel'
import { type RmsNormInputs, rmsNormName } from './reference'

export const rmsNormWasm = wasmKernel<RmsNormInputs, { epsilon: number }>(
  rmsNormName,
  ({ x, weight }, { epsilon }, runtime) => {
    const [rows = 0, width = 0] = x.shape
    const output = runtime.makeOutput(x.shape, 'float32')
    runtime.functions.rmsNorm(
      runtime.pointerOf(x),
      runtime.pointerOf(weight),
      runtime.pointerOf(output),
      rows,
      width,
      epsilon,
    )
    return output
  },
)
