/** Pages in host memory, which hold arrays in place of tensors. */
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor } from '../../contract'
import { upload } from '../../tensors'
import { coded, decoded, type HostArray } from './host-array'
import { Page, type View } from './page'
import { mapStored, perUnit, type Stored } from './stored'

/** The tensors of a page. Those of a host page are uploaded, and freed by the tidy around the call. */
export const uploads = (page: Page): Stored<tf.Tensor> =>
  page.host ? mapStored(page.host, page.form, (t) => upload(decoded(t, page.form.lossless))) : page.device

/** A page of coded rows has so many rows: a row of it is read by decoding all of them. */
const CODED_PAGE_ROWS = 64

/** Copies the rows of some views into pages of host memory: one, or several of a bounded size where rows are coded. */
export async function hostPages(views: readonly View[]): Promise<readonly Page[]> {
  const [first] = views
  if (!first) return []
  const { form, sealed, fitted, device } = first.page
  const rows = views.reduce((n, v) => n + v.rows, 0)
  const reads: Promise<void>[] = []
  const host = mapStored(device, form, ({ shape, dtype }, field, same) => {
    const [heads = 0, , ...rest] = shape
    const to = emptyRows(heads, rows, rest, dtype === 'int32', perUnit(field))
    let at = 0
    for (const v of views) {
      reads.push(copyView(v, same(v.page.device), to, at, perUnit(field)))
      at += v.rows
    }
    return to
  })
  await Promise.all(reads)
  const page = (host: Stored<HostArray>, capacity: number) =>
    new Page({ stored: null, host, capacity, form, sealed, rowWise: true, used: capacity, fitted })
  const { lossless } = form
  if (!lossless) return [page(host, rows)]
  const starts = Array.from({ length: Math.ceil(rows / CODED_PAGE_ROWS) }, (_, i) => i * CODED_PAGE_ROWS)
  return starts.map((start) => {
    const count = Math.min(CODED_PAGE_ROWS, rows - start)
    return page(
      mapStored(host, form, (t, field) => coded(rowsOf(t, start, count, perUnit(field)), lossless)),
      count,
    )
  })
}

/** Rows `start ... start + count` of a host array; `start` is a multiple of `unit`. */
function rowsOf({ shape, values }: HostTensor, start: number, count: number, unit: number): HostTensor {
  const [heads = 0, all = 0, ...rest] = shape
  const width = rest.reduce((a, b) => a * b, 1)
  const [from, n] = [start / unit, Math.ceil(count / unit)]
  const part = values instanceof Int32Array ? new Int32Array(heads * n * width) : new Float32Array(heads * n * width)
  for (let h = 0; h < heads; h++)
    part.set(values.subarray((h * all + from) * width, (h * all + from + n) * width), h * n * width)
  return { shape: [heads, n, ...rest], values: part }
}

/** Copies the rows of a view, which it reads back from the device, to rows `at ...` of a host array. */
async function copyView(v: View, tensor: tf.Tensor, to: HostTensor, at: number, unit: number): Promise<void> {
  const source = { shape: tensor.shape, values: (await tensor.data()) as Int32Array }
  for (let h = 0; h < (to.shape[0] ?? 0); h++)
    for (let i = 0; i < v.rows; i++) copyRow(source, h, v.from + i, to, h, at + i, unit)
}

/** Uploads `count` rows of each head of a host array: `rowOf(head, i)` is the number of the i-th. */
export function gatherHost(
  from: HostTensor,
  rowOf: (head: number, i: number) => number,
  count: number,
  unit: number,
): tf.Tensor {
  const [heads = 0, , ...rest] = from.shape
  const picked = emptyRows(heads, count, rest, from.values instanceof Int32Array, unit)
  for (let h = 0; h < heads; h++) for (let i = 0; i < count; i++) copyRow(from, h, rowOf(h, i), picked, h, i, unit)
  return upload(picked)
}

function emptyRows(heads: number, rows: number, rest: readonly number[], ints: boolean, unit: number): HostTensor {
  const shape = [heads, Math.ceil(rows / unit), ...rest]
  const size = shape.reduce((a, b) => a * b, 1)
  return { shape, values: ints ? new Int32Array(size) : new Float32Array(size) }
}

/** Takes one row of one head. Where two rows share a word, it takes the half that is the row's, the low one for the even row. */
function copyRow(
  from: HostTensor,
  head: number,
  row: number,
  to: HostTensor,
  toHead: number,
  toRow: number,
  unit: number,
): void {
  const width = from.shape.slice(2).reduce((a, b) => a * b, 1)
  const at = (t: HostTensor, h: number, r: number) => (h * (t.shape[1] ?? 0) + Math.floor(r / unit)) * width
  const [source, target] = [at(from, head, row), at(to, toHead, toRow)]
  if (unit === 1) {
    to.values.set(from.values.subarray(source, source + width), target)
    return
  }
  const [low, high] = [(row % 2) * 16, (toRow % 2) * 16]
  for (let i = 0; i < width; i++) {
    const half = ((from.values[source + i] ?? 0) >>> low) & 0xffff
    to.values[target + i] = ((to.values[target + i] ?? 0) & ~(0xffff << high)) | (half << high)
  }
}
