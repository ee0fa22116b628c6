import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel } from '../kernel'

export const throughLatentsName = 'KvloomThroughLatents'

/** Into the latents, or back from them. */
export type ThroughLatents = { kvHeads: number; back: boolean }

/** Sizes of a product of heads with their blocks. */
export function latentSizes(
  x: readonly number[],
  up: readonly number[],
  { kvHeads, back }: ThroughLatents,
): { each: number; rank: number; dim: number; rows: number; output: number[] } {
  const [queryHeads = 0, n = 0] = x
  const [mainHeads = 1, rank = 0, width = 0] = up
  const each = kvHeads / mainHeads
  const dim = width / each
  return { each, rank, dim, rows: (queryHeads / kvHeads) * n, output: [queryHeads, n, back ? dim : rank] }
}

export const throughLatentsReference = cpuKernel<{ x: TensorInfo; up: TensorInfo }, ThroughLatents>(
  throughLatentsName,
  ({ x, up }, attributes, storage) => {
    const { kvHeads, back } = attributes
    const { each, rank, dim, rows, output: shape } = latentSizes(x.shape, up.shape, attributes)
    const output = storage.makeOutput(shape, 'float32')
    const [from, basis, to] = [storage.float32(x), storage.float32(up), storage.float32(output)]
    const [inner, outer] = back ? [rank, dim] : [dim, rank]
    for (let h = 0; h < kvHeads; h++)
      for (let m = 0; m < rows; m++)
        for (let o = 0; o < outer; o++) {
          let sum = 0
          for (let i = 0; i < inner; i++) {
            const [j, d] = back ? [i, o] : [o, i]
            const at = (Math.floor(h / each) * rank + j) * each * dim + (h % each) * dim + d
            sum += (from[(h * rows + m) * inner + i] ?? 0) * (basis[at] ?? 0)
          }
          to[(h * rows + m) * outer + o] = sum
        }
    return output
  },
)
