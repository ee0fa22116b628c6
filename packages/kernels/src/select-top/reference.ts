import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel } from '../kernel'

export const selectTopName = 'KvloomSelectTop'
export type SelectTop = { k: number }

/** Floats as integers of the same order: negative ones reversed, positive ones above them (-0 < 0; NaN at the ends by its sign). */
function sortable(bits: number): number {
  return (bits ^ ((bits >> 31) | 0x80000000)) >>> 0
}

export const selectTopReference = cpuKernel<{ scores: TensorInfo }, SelectTop>(
  selectTopName,
  ({ scores }, { k }, storage) => {
    const [heads = 0, n = 0] = scores.shape
    const values = storage.float32(scores)
    const keys = Array.from(new Int32Array(values.buffer, values.byteOffset, values.length), sortable)
    const output = storage.makeOutput([heads, k], 'int32')
    for (let head = 0; head < heads; head++) {
      const keyOf = (index: number) => keys[head * n + index] ?? 0
      const best = Array.from({ length: n }, (_, i) => i)
        .sort((a, b) => keyOf(b) - keyOf(a) || a - b)
        .slice(0, k)
      storage.int32(output).set(
        best.sort((a, b) => a - b),
        head * k,
      )
    }
    return output
  },
)
