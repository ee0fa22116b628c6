/** Rows in host memory: pages that hold arrays in place of tensors. */
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, Tensors } from '../contract'
import { upload } from '../site'
import { Page, tensorOf, type View } from './page'

/** The tensors of a page; of a host page uploads, which the tidy around frees. */
export const uploads = (page: Page): Tensors =>
  page.host ? Object.fromEntries(Object.entries(page.host).map(([name, t]) => [name, upload(t)])) : page.tensors

/** The rows of some views in one page of host memory. */
export async function hostPage(views: readonly View[]): Promise<Page> {
  const [first] = views
  if (!first) throw new Error('no rows to move')
  const rows = views.reduce((n, v) => n + v.rows, 0)
  const host: Record<string, HostTensor> = {}
  for (const name of Object.keys(first.page.tensors)) {
    const [heads = 0, , ...rest] = tensorOf(first.page, name).shape
    const width = rest.reduce((a, b) => a * b, 1)
    const ints = tensorOf(first.page, name).dtype === 'int32'
    const values = ints ? new Int32Array(heads * rows * width) : new Float32Array(heads * rows * width)
    let at = 0
    for (const v of views) {
      const data = await tensorOf(v.page, name).data()
      for (let h = 0; h < heads; h++) {
        const start = (h * v.page.capacity + v.from) * width
        values.set(data.subarray(start, start + v.rows * width) as Int32Array & Float32Array, (h * rows + at) * width)
      }
      at += v.rows
    }
    host[name] = { shape: [heads, rows, ...rest], values }
  }
  const { layout, sealed } = first.page
  return new Page({ tensors: {}, host, capacity: rows, layout, sealed, rowWise: true, used: rows })
}

/** Rows `local` `[heads, count]` of a host array, uploaded. */
export function gatherHost({ shape, values }: HostTensor, local: Int32Array, count: number): tf.Tensor {
  const [heads = 0, rows = 0, ...rest] = shape
  const width = rest.reduce((a, b) => a * b, 1)
  const picked =
    values instanceof Int32Array ? new Int32Array(heads * count * width) : new Float32Array(heads * count * width)
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < count; i++) {
      const from = (h * rows + (local[h * count + i] ?? 0)) * width
      picked.set(values.subarray(from, from + width), (h * count + i) * width)
    }
  return upload({ shape: [heads, count, ...rest], values: picked })
}
