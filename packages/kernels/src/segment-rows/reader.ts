// One stored row of a segment at a time, in double precision where it is computed: what the reference kernels read.
import type { Tensor } from '@tensorflow/tfjs-core'
import { decodeElement } from '../affine/reference'
import { decodeCodebookRow } from '../codebook/decode'
import { codebookTensors } from '../codebook/layout'
import type { CpuStorage } from '../cpu/storage'
import type { RowSegment } from '../layouts'
import { storedValue } from '../rows/reference'

/** Reads one stored row, of the page, as numbers [dim]. */
export function rowReader(
  { layout, tensors, table, ranges, share = 1, mergedHeads }: RowSegment,
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
  const numbersOf = (tensor: Tensor | undefined) =>
    tensor && (tensor.dtype === 'int32' ? storage.int32(tensor) : storage.float32(tensor))
  const words = storage.int32(first)
  if (layout.kind === 'codebook') {
    const parts = codebookTensors(layout, tensors)
    const page = {
      codes: words,
      metadata: numbersOf(parts.metadata),
      maps: numbersOf(parts.maps),
      outliers: numbersOf(parts.outliers),
      places: parts.places && storage.int32(parts.places),
      table: storage.float32(table as Tensor),
      ranges: ranges && storage.float32(ranges),
      rows: first.shape[1] ?? 0,
    }
    if (mergedHeads === undefined) return (row) => Float64Array.from(decodeCodebookRow(page, layout, dim, head, row))
    const merged = (row: number) => decodeCodebookRow(page, layout, mergedHeads * dim, 0, row)
    return (row) => Float64Array.from(merged(row).subarray(head * dim, (head + 1) * dim))
  }
  const metadata = second.dtype === 'int32' ? storage.int32(second) : storage.float32(second)
  const rows = layout.along === 'tokens' ? (second.shape[2] ?? 0) * layout.group : (first.shape[1] ?? 0)
  return byElement((row, channel) => decodeElement(words, metadata, layout, rows, dim, head, row, channel))
}
