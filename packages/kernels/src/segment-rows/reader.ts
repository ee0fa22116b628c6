// One stored row of a segment at a time, in double precision where it is computed: what the reference kernels read.
import type { Tensor } from '@tensorflow/tfjs-core'
import { decodeElement } from '../affine/reference'
import { decodeCodebookRow } from '../codebook/decode'
import type { CpuStorage } from '../cpu/storage'
import type { RowSegment } from '../layouts'
import { storedValue } from '../rows/reference'

/** Reads one stored row, of the page, as numbers [dim]. */
export function rowReader(
  { layout, tensors, table, share = 1 }: RowSegment,
  kvHead: number,
  dim: number,
  storage: CpuStorage,
): (row: number) => Float64Array {
  const head = Math.floor(kvHead / share)
  const [first, second] = tensors as readonly Tensor[] as readonly [Tensor, Tensor]
  const byElement = (element: (row: number, channel: number) => number) => (row: number) =>
    Float64Array.from({ length: dim }, (_, channel) => element(row, channel))
  if (layout.kind === 'dense') {
    const capacity = first.shape[1] ?? 0
    const stored = layout.store === 'f32' ? storage.float32(first) : storage.int32(first)
    return byElement((row, channel) => storedValue(layout.store, stored, head * capacity + row, dim, channel))
  }
  const metadata = second && (second.dtype === 'int32' ? storage.int32(second) : storage.float32(second))
  const words = storage.int32(first)
  if (layout.kind === 'codebook') {
    const page = { codes: words, metadata, table: storage.float32(table as Tensor), rows: first.shape[1] ?? 0 }
    return (row) => Float64Array.from(decodeCodebookRow(page, layout, dim, head, row))
  }
  const rows = layout.along === 'tokens' ? (second.shape[2] ?? 0) * layout.group : (first.shape[1] ?? 0)
  return byElement((row, channel) => decodeElement(words, metadata, layout, rows, dim, head, row, channel))
}
