/**
 * Copies rows of several pages, each head's own, bit for bit into new pages. A cache gives back the room of rows that were dropped one by
 * one in this way.
 */
import { allocateRows, gatherRows, readRows, writeRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { as3d } from '../../tensors'
import { Page, tensorOf, unitOf, type View } from './page'

/**
 * Makes pages that hold rows `index` of some views.
 * @param views rows of one form, in device memory, that can be gathered one by one
 * @param index int32 `[heads, n]`: row numbers over all views; a tensor with fewer heads, since heads share a latent, takes the first head's
 * @param capacityAt how many rows the page has whose first row is `index[:, at]`, a multiple of `unit`
 * @param unit how many rows share a word of metadata
 */
export function copyToPages(
  views: readonly View[],
  index: tf.Tensor2D,
  capacityAt: (at: number) => number,
  unit: number,
): Page[] {
  const [first] = views
  const n = index.shape[1]
  const pages: Page[] = []
  if (!first) return pages
  const { layout, sealed, fitted, tensors } = first.page
  for (let at = 0; at < n; ) {
    const capacity = capacityAt(at)
    const count = Math.min(capacity, n - at)
    const gathered: Record<string, tf.Tensor> = {}
    for (const name of Object.keys(tensors))
      gathered[name] = tf.tidy(() => gatherTensor(views, name, tf.slice(index, [0, at], [-1, count]), capacity, unit))
    const used = Math.ceil(count / unit) * unit
    pages.push(new Page({ tensors: gathered, capacity, layout, sealed, rowWise: true, used, fitted }))
    at += count
  }
  return pages
}

/** Makes one named tensor of a page that holds rows `index` `[heads, count]`, with room for `capacity` rows. */
function gatherTensor(
  views: readonly View[],
  name: string,
  index: tf.Tensor2D,
  capacity: number,
  unit: number,
): tf.Tensor {
  const sources = views.map((v) => tensorOf(v.page, name))
  const [heads = 0, , ...rest] = sources[0]?.shape ?? []
  const each = index.shape[0] === heads ? index : tf.tile(tf.slice(index, [0, 0], [1, -1]), [heads, 1])
  const counts = views.map((v) => v.rows)
  if (unitOf(name, unit) === 1) {
    const froms = views.map((v) => v.from)
    return tf.reshape(gatherRows(sources.map(as3d), counts, each, capacity, froms), [heads, capacity, ...rest])
  }
  // Two rows share a word, so words are taken apart into f32, where every row stands alone. Halves survive the way there and back.
  const rows = views.map((v, i) => tf.slice(unpaired(as3d(sources[i] as tf.Tensor)), [0, v.from, 0], [-1, v.rows, -1]))
  const picked = gatherRows(rows, counts, each, capacity) as tf.Tensor3D
  return tf.reshape(paired(picked), [heads, capacity / unit, ...rest])
}

/**
 * Takes words int32 `[heads, units, width]`, which hold the halves of two rows each (the even row's low), apart into f32
 * `[heads, 2 * units, width]`.
 */
function unpaired(words: tf.Tensor3D): tf.Tensor3D {
  const [heads, units, width] = words.shape
  const halves = tf.reshape(readRows(words, 'f16', 2 * width, 0, units), [heads, units, width, 2])
  return tf.reshape(tf.transpose(halves, [0, 1, 3, 2]), [heads, 2 * units, width])
}

/** Puts the halves of two rows each into words again, which `unpaired` took apart. */
function paired(rows: tf.Tensor3D): tf.Tensor3D {
  const [heads, n, width] = rows.shape
  const halves = tf.transpose(tf.reshape(rows, [heads, n / 2, 2, width]), [0, 1, 3, 2])
  const words = allocateRows('f16', heads, n / 2, 2 * width) as tf.Tensor3D
  writeRows(words, 'f16', 0, tf.reshape(halves, [heads, n / 2, 2 * width]))
  return words
}
