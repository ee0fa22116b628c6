/** Pages in host memory, which hold arrays in place of tensors. */
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor } from '../../contract'
import { upload } from '../../tensors'
import { Page, type View } from './page'
import { mapStored, perUnit, type Stored } from './stored'

/** The tensors of a page. Those of a host page are uploaded, and freed by the tidy around the call. */
export const uploads = (page: Page): Stored<tf.Tensor> =>
  page.host ? mapStored(page.host, page.form, upload) : page.device

/** Copies the rows of some views into one page of host memory. */
export async function hostPage(views: readonly View[]): Promise<Page> {
  const [first] = views
  if (!first) throw new Error('no rows to move')
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
  return new Page({ stored: null, host, capacity: rows, form, sealed, rowWise: true, used: rows, fitted })
}

/** Copies the rows of a view, which it reads back from the device, to rows `at ...` of a host array. */
async function copyView(v: View, tensor: tf.Tensor, to: HostTensor, at: number, unit: number): Promise<void> {
  const source = { shape: tensor.shape, values: (await tensor.data()) as Int32Array }
  for (let h = 0; h < (to.shape[0] ?? 0); h++)
    for (let i = 0; i < v.rows; i++) copyRow(source, h, v.from + i, to, h, at + i, unit)
}

/** Uploads rows `local` `[heads, count]` of a host array. */
export function gatherHost(from: HostTensor, local: Int32Array, count: number, unit: number): tf.Tensor {
  const [heads = 0, , ...rest] = from.shape
  const picked = emptyRows(heads, count, rest, from.values instanceof Int32Array, unit)
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < count; i++) copyRow(from, h, local[h * count + i] ?? 0, picked, h, i, unit)
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
