/**
 * Copies rows of several pages, each head's own, bit for bit into new pages. A cache gives back the room of rows that were dropped one by
 * one in this way.
 */
import { allocateRows, gatherRows, readRows, writeRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { as3d } from '../../tensors'
import { Page, type View } from './page'
import { mapStored, perUnit, type Stored } from './stored'

/**
 * Makes pages that hold rows `index` of some views.
 * @param views rows of one form, in device memory, that can be gathered one by one
 * @param index int32 `[heads, n]`: row numbers over all views; a tensor with fewer heads, since heads share a latent, takes the first head's
 * @param capacityAt how many rows the page has whose first row is `index[:, at]`, a multiple of the pages' unit
 */
export function copyToPages(views: readonly View[], index: tf.Tensor2D, capacityAt: (at: number) => number): Page[] {
  const [first] = views
  const n = index.shape[1]
  const pages: Page[] = []
  if (!first) return pages
  const { form, sealed, fitted, device, unit } = first.page
  for (let at = 0; at < n; ) {
    const capacity = capacityAt(at)
    const count = Math.min(capacity, n - at)
    const stored = mapStored(device, form, (_, field, same) =>
      tf.tidy(() => gatherTensor(views, same, perUnit(field), tf.slice(index, [0, at], [-1, count]), capacity)),
    )
    const used = Math.ceil(count / unit) * unit
    pages.push(new Page({ stored, capacity, form, sealed, rowWise: true, used, fitted }))
    at += count
  }
  return pages
}

/** Makes one tensor of a page that holds rows `index` `[heads, count]`, with room for `capacity` rows. `pick` finds it in the pages. */
function gatherTensor(
  views: readonly View[],
  pick: (of: Stored<tf.Tensor>) => tf.Tensor,
  unit: number,
  index: tf.Tensor2D,
  capacity: number,
): tf.Tensor {
  const sources = views.map((v) => pick(v.page.device))
  const [heads = 0, , ...rest] = sources[0]?.shape ?? []
  const each = index.shape[0] === heads ? index : tf.tile(tf.slice(index, [0, 0], [1, -1]), [heads, 1])
  const counts = views.map((v) => v.rows)
  if (unit === 1) {
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
