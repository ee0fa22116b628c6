import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel } from '../kernel'

export const splitHeadsName = 'KvloomSplitHeads'
export const mergeHeadsName = 'KvloomMergeHeads'

/** [n, heads · dim] → [heads, n, dim]. */
export const splitHeadsReference = cpuKernel<{ x: TensorInfo }, { heads: number }>(
  splitHeadsName,
  ({ x }, { heads }, storage) => {
    const [rows = 0, width = 0] = x.shape
    const dim = width / heads
    const output = storage.makeOutput([heads, rows, dim], 'float32')
    swapOuter(storage.float32(x), storage.float32(output), rows, heads, dim)
    return output
  },
)

/** [heads, n, dim] → [n, heads · dim]. */
export const mergeHeadsReference = cpuKernel<{ x: TensorInfo }, Record<string, never>>(
  mergeHeadsName,
  ({ x }, _, storage) => {
    const [heads = 0, rows = 0, dim = 0] = x.shape
    const output = storage.makeOutput([rows, heads * dim], 'float32')
    swapOuter(storage.float32(x), storage.float32(output), heads, rows, dim)
    return output
  },
)

function swapOuter(x: Float32Array, output: Float32Array, outer: number, inner: number, dim: number): void {
  for (let i = 0; i < outer; i++) {
    for (let j = 0; j < inner; j++)
      output.set(x.subarray((i * inner + j) * dim, (i * inner + j + 1) * dim), (j * outer + i) * dim)
  }
}
