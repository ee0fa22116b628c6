import { wasmKernel } from '../kernel'
import { checkPositions, type RopeInputs, ropeName } from './reference'

export const ropeWasm = wasmKernel<RopeInputs, { inverse: boolean }>(
  ropeName,
  ({ x, cos, sin, positions }, { inverse }, runtime) => {
    const [heads = 0, rows = 0, dim = 0] = x.shape
    const [tableRows = 0, pairs = 0] = cos.shape
    checkPositions(runtime.int32(positions), tableRows)
    const output = runtime.makeOutput(x.shape, 'float32')
    runtime.functions.rope(
      runtime.pointerOf(x),
      runtime.pointerOf(cos),
      runtime.pointerOf(sin),
      runtime.pointerOf(positions),
      runtime.pointerOf(output),
      heads,
      rows,
      dim,
      pairs,
      positions.shape.length === 2 ? 1 : 0,
      inverse ? -1 : 1,
    )
    return output
  },
)
