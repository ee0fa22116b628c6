/** Reads rows of a part: decoded, as predictors see them, or as latents. */
import { gatherRows, readRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Tensors } from '../../contract'
import { concatRows, mergeHeads } from '../../tensors'
import { uploads } from './host-page'
import type { Page, View } from './page'
import type { Rows } from './rows'

/** Decodes every row to f32 `[heads, rows, dim]`, in the order of storage. A predicted part needs `prediction` `[sealed rows, width]`. */
export const readAll = (rows: Rows, prediction: tf.Tensor2D | null = null): tf.Tensor3D =>
  readRange(rows, 0, rows.count, prediction)

/** Decodes rows `[from, from + count)`, counted through all zones. `prediction` covers the whole sealed zone. */
export function readRange(of: Rows, from: number, count: number, prediction: tf.Tensor2D | null = null): tf.Tensor3D {
  return tf.tidy(() => {
    const sinks = of.views.rowsIn('sink')
    const pieces = [...of.views.cut(from, count)].map(({ view, at, skip, rows }) =>
      view.page.sealed
        ? decodeRows(of, view, skip, rows, slicePrediction(prediction, at - sinks, rows))
        : exactRows(of, view, skip, rows),
    )
    return pieces.length ? concatRows(pieces) : tf.zeros([of.form.heads, 0, of.form.dim])
  })
}

/** Reads `main` of rows `[from, from + count)`, merged over heads to `[count, width]`, as predictors see it. */
export function readMain(
  of: Rows,
  from: number,
  count: number,
  predictionOf: (from: number, count: number) => tf.Tensor2D | null,
): tf.Tensor2D {
  const kept = of.kept.tensor
  const sinks = of.views.rowsIn('sink')
  if (kept && from >= sinks && from + count <= sinks + kept.shape[0])
    return tf.slice(kept, [from - sinks, 0], [count, -1])
  const { codec } = of.form
  return tf.tidy(() => {
    const pieces: tf.Tensor2D[] = []
    for (const { view, at, skip, rows } of of.views.cut(from, count))
      pieces.push(
        mergeHeads(
          view.page.sealed && codec
            ? codec.main(uploads(view.page), view.page.capacity, view.from + skip, rows, predictionOf(at, rows))
            : exactRows(of, view, skip, rows),
        ),
      )
    const [only] = pieces
    return pieces.length === 1 && only ? only : (tf.concat(pieces, 0) as tf.Tensor2D)
  })
}

/** Reads the latents `[mainHeads, count, mainDim]` of sealed rows `[from, from + count)`. Their part has a transform and no predictor. */
export function readLatents(of: Rows, from: number, count: number): tf.Tensor3D {
  const { codec } = of.form
  if (!codec) throw new Error('no latents without a codec')
  return tf.tidy(() =>
    concatRows(
      [...of.views.cut(from, count)].map(({ view, skip, rows }) =>
        codec.main(uploads(view.page), view.page.capacity, view.from + skip, rows, null),
      ),
    ),
  )
}

/** How far the positions of `row` and its neighbours in the view moved down. */
export const shiftAt = (of: Rows, row: number): number => of.views.at(row)?.shift ?? 0

/** What the transform had fitted when `row` and its neighbours in the view were sealed. */
export const stateAt = (of: Rows, row: number): Tensors => of.views.at(row)?.page.fitted?.tensors ?? {}

/** Reads rows `skip ... skip + rows` of a view of exact rows. */
export const exactRows = ({ form }: Rows, v: View, skip: number, rows: number): tf.Tensor3D =>
  readRows(uploads(v.page)['rows'] as tf.Tensor, form.store, form.dim, v.from + skip, rows) as tf.Tensor3D

/** Decodes rows `skip ... skip + rows` of a view of sealed rows. `prediction` is for just these. */
export function decodeRows(of: Rows, v: View, skip: number, rows: number, prediction: tf.Tensor2D | null): tf.Tensor3D {
  const { codec } = of.form
  if (!codec) throw new Error('a sealed page without a codec')
  const tensors = uploads(v.page)
  const from = v.from + skip
  const main = codec.main(tensors, v.page.capacity, from, rows, prediction)
  const decoded = codec.rows(main, tensors, from, v.page.fitted?.tensors ?? {})
  return v.page.exempt ? patch(of, decoded, v.page, from, rows) : decoded
}

/** Puts the rows that were exempt from the transform in their places. */
function patch({ form }: Rows, decoded: tf.Tensor3D, page: Page, from: number, rows: number): tf.Tensor3D {
  const { exempt } = page
  const { heads, store, dim, codec } = form
  const exact = page.tensors[`exempt.rows.${codec?.parts.member ?? 0}`]
  if (!exempt || !exact) return decoded
  const each = exempt.length / heads
  const map = new Int32Array(heads * rows)
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < rows; i++) map[h * rows + i] = i
    for (let j = 0; j < each; j++) {
      const row = (exempt[h * each + j] ?? -1) - from
      if (row >= 0 && row < rows) map[h * rows + row] = rows + j
    }
  }
  const originals = readRows(exact, store, dim, 0, each) as tf.Tensor3D
  const index = tf.tensor2d(map, [heads, rows], 'int32')
  return gatherRows([decoded, originals], [rows, each], index, rows) as tf.Tensor3D
}

const slicePrediction = (prediction: tf.Tensor2D | null, from: number, rows: number): tf.Tensor2D | null =>
  prediction && (from === 0 && rows === prediction.shape[0] ? prediction : tf.slice(prediction, [from, 0], [rows, -1]))
