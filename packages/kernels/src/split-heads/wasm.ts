import type { TensorInfo } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import { mergeHeadsName, splitHeadsName } from './reference'

export const splitHeadsWasm = wasmKernel<{ x: TensorInfo }, { heads: number }>(
  splitHeadsName,
  ({ x }, { heads }, runtime) => {
    const [rows = 0, width = 0] = x.shape
    const output = runtime.makeOutput([heads, rows, width / heads], 'float32')
    runtime.functions.swapOuter(runtime.pointerOf(x), runtime.pointerOf(output), rows, heads, width / heads)
    return output
  },
)

export const mergeHeadsWasm = wasmKernel<{ x: TensorInfo }, Record<string, never>>(
  mergeHeadsName,
  ({ x }, _, runtime) => {
    const [heads = 0, rows = 0, dim = 0] = x.shape
    const output = runtime.makeOutput([rows, heads * dim], 'float32')
    runtime.functions.swapOuter(runtime.pointerOf(x), runtime.pointerOf(output), heads, rows, dim)
    return output
  },
)
