import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel } from '../kernel'
import type { RowSegment } from '../layouts'
import { rowReader } from './reader'

export const readSegmentsName = 'KvloomReadSegments'

/** The public arguments, checked, and the rows of all segments. */
export type ReadSegments = {
  segments: readonly RowSegment[]
  heads: number
  dim: number
  total: number
}

export const readSegmentsReference = cpuKernel<Record<string, TensorInfo>, ReadSegments>(
  readSegmentsName,
  (_, { segments, heads, dim, total }, storage) => {
    const output = storage.makeOutput([heads, total, dim], 'float32')
    const values = storage.float32(output)
    let at = 0
    for (let head = 0; head < heads; head++)
      for (const segment of segments) {
        const row = rowReader(segment, head, dim, storage)
        for (let i = 0; i < segment.rows; i++, at += dim) values.set(row(segment.from + i), at)
      }
    return output
  },
)
