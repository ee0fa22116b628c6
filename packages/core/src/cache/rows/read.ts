/** Reads rows of a part: decoded, as predictors see them, or as latents. */
import { gatherRows, mergeHeads, readRows, readSegments } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Tensors } from '../../contract'
import { concatRows } from '../../tensors'
import { uploads } from './host-page'
import type { Exempt, View } from './page'
import type { Rows } from './rows'
import { segmentOf } from './segments'
import type { Piece } from './views'
import { ZONES } from './zones'

/** Decodes every row to f32 `[heads, rows, dim]`, in the order of storage. A predicted part needs `prediction` `[sealed rows, width]`. */
export const readAll = (rows: Rows, prediction: tf.Tensor2D | null = null): tf.Tensor3D =>
  readRange(rows, 0, rows.count, prediction)

/** Decodes rows `[from, from + count)`, counted through all zones. `prediction` covers the whole sealed zone. */
export function readRange(of: Rows, from: number, count: number, prediction: tf.Tensor2D | null = null): tf.Tensor3D {
  return tf.tidy(() => {
    const sinks = of.views.rowsIn('sink')
    const pieces = runsOf(of, from, count).map((run) => {
      const { sealed, rows } = run
      const { view, skip, at } = run.first
      if (!sealed) return exactOfRun(of, run)
      const predicted = slicePrediction(prediction, at - sinks, rows)
      const { codec } = of.form
      if (!codec || !run.together) return decodeRows(of, view, skip, rows, predicted)
      return codec.rows(mainOfRun(of, run, predicted), null, 0, view.page.fitted?.state ?? {})
    })
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
    return tf.tidy(() => rowsOf(kept, from - sinks, count))
  return tf.tidy(() => {
    const pieces = runsOf(of, from, count).map((run) =>
      mergeHeads(run.sealed ? mainOfRun(of, run, predictionOf(run.first.at, run.rows)) : exactOfRun(of, run)),
    )
    const [only] = pieces
    return (pieces.length === 1 && only ? only : tf.concat(pieces, 0)) as tf.Tensor2D
  })
}

/** Reads the latents `[mainHeads, count, mainDim]` of sealed rows `[from, from + count)`. Their part has a transform and no predictor. */
export function readLatents(of: Rows, from: number, count: number): tf.Tensor3D {
  return tf.tidy(() => concatRows(runsOf(of, from, count).map((run) => mainOfRun(of, run, null))))
}

/** Rows of adjacent views that are decoded in one pass: those of `first`, and of `rest` behind it. */
interface DecodingRun {
  readonly first: Piece
  readonly rest: Piece[]
  readonly sealed: boolean
  /** Whether kernels decode their pages by the layout. If not, they are the rows of one view. */
  readonly together: boolean
  rows: number
}

/** Cuts rows `[from, from + count)` into runs: of exact rows, or of sealed ones that were fitted alike. */
function runsOf(of: Rows, from: number, count: number): readonly DecodingRun[] {
  const runs: DecodingRun[] = []
  const { decodedByLayout: byLayout = false, rowsPerGroup = 1 } = of.form.codec ?? {}
  for (const piece of of.views.cut(from, count)) {
    const { view, skip, rows } = piece
    const { sealed, host, stored, exempt, fitted } = view.page
    // What lies in host memory is uploaded for one read, and has no segment that could be kept. A segment starts with a whole group of rows.
    const whole = (view.from + skip) % rowsPerGroup === 0
    const together = !host && (!sealed || (byLayout && whole && !exempt && !stored?.scale))
    const last = runs.at(-1)
    if (last?.together && together && last.sealed === sealed && last.first.view.page.fitted === fitted) {
      last.rows += rows
      last.rest.push(piece)
    } else runs.push({ first: piece, rest: [], sealed, together, rows })
  }
  return runs
}

/** Decodes what the pages of a run hold. */
function readTogether(
  of: Rows,
  { first, rest }: DecodingRun,
  { heads, dim }: { readonly heads: number; readonly dim: number },
): tf.Tensor3D {
  const segments = [first, ...rest].map(({ view, skip, rows }) => segmentOf(of, view, skip, rows))
  return readSegments({ segments, heads, dim }) as tf.Tensor3D
}

/** Exact rows of one page are read as they lie. A segment of part of a view would be made and checked anew each time. */
const exactOfRun = (of: Rows, run: DecodingRun): tf.Tensor3D =>
  run.rest.length > 0 ? readTogether(of, run, of.form) : exactRows(of, run.first.view, run.first.skip, run.rows)

function mainOfRun(of: Rows, run: DecodingRun, prediction: tf.Tensor2D | null): tf.Tensor3D {
  const { codec } = of.form
  if (!codec) throw new Error('sealed rows without a codec')
  const { view, skip } = run.first
  const { page, from } = view
  return run.together
    ? codec.mainOf(readTogether(of, run, codec.stored), prediction)
    : codec.main(uploads(page), page.capacity, from + skip, run.rows, prediction)
}

/** How far the positions of `row` and its neighbours in the view moved down. */
export const shiftAt = (of: Rows, row: number): number => of.views.at(row)?.shift ?? 0

/** What the transform had fitted when `row` and its neighbours in the view were sealed. */
export const stateAt = (of: Rows, row: number): Tensors => of.views.at(row)?.page.fitted?.state ?? {}

/** Reads rows `skip ... skip + rows` of a view of exact rows. */
export const exactRows = ({ form }: Rows, v: View, skip: number, rows: number): tf.Tensor3D =>
  readRows(uploads(v.page).block['rows'] as tf.Tensor, form.store, form.dim, v.from + skip, rows) as tf.Tensor3D

/** Decodes rows `skip ... skip + rows` of a view of sealed rows. `prediction` is for just these. */
export function decodeRows(of: Rows, v: View, skip: number, rows: number, prediction: tf.Tensor2D | null): tf.Tensor3D {
  const { codec } = of.form
  if (!codec) throw new Error('a sealed page without a codec')
  const stored = uploads(v.page)
  const from = v.from + skip
  const main = codec.main(stored, v.page.capacity, from, rows, prediction)
  const decoded = codec.rows(main, stored.scale, from, v.page.fitted?.state ?? {})
  return v.page.exempt ? patch(of, decoded, v.page.exempt, from, rows) : decoded
}

/**
 * Reads every row of a restored part once, a view at a time, so that a file whose pages do not fit is refused before a step meets them.
 * @throws Error of whatever cannot read them
 */
export function checkReadable(of: Rows): void {
  const { heads, dim } = of.form
  for (const zone of ZONES)
    for (const view of of.views.in(zone)) {
      const { sealed } = view.page
      if (sealed !== (zone === 'sealed')) throw new Error(`${sealed ? 'sealed' : 'exact'} rows in the ${zone} zone`)
      tf.tidy(() => {
        const { shape } = sealed ? decodeRows(of, view, 0, view.rows, null) : exactRows(of, view, 0, view.rows)
        if (shape.join() !== [heads, view.rows, dim].join())
          throw new Error(`rows of shape [${shape.join(', ')}] where [${heads}, ${view.rows}, ${dim}] are read`)
      })
    }
}

/** Puts the rows that were exempt from the transform in their places. */
function patch({ form }: Rows, decoded: tf.Tensor3D, exempt: Exempt, from: number, rows: number): tf.Tensor3D {
  const { places } = exempt
  const { heads, store, dim, codec } = form
  const exact = exempt.rows[codec?.parts.member ?? 0]
  if (!exact) return decoded
  const each = places.length / heads
  const map = new Int32Array(heads * rows)
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < rows; i++) map[h * rows + i] = i
    for (let j = 0; j < each; j++) {
      const row = (places[h * each + j] ?? -1) - from
      if (row >= 0 && row < rows) map[h * rows + row] = rows + j
    }
  }
  const originals = readRows(exact, store, dim, 0, each) as tf.Tensor3D
  const index = tf.tensor2d(map, [heads, rows], 'int32')
  return gatherRows([decoded, originals], [rows, each], index, rows) as tf.Tensor3D
}

/** Rows `[from, from + count)` of a matrix. `tf.slice` copies all of a matrix on wasm first. */
const rowsOf = (matrix: tf.Tensor2D, from: number, count: number): tf.Tensor2D => {
  const [, width] = matrix.shape
  return tf.reshape(readRows(tf.expandDims(matrix, 0), 'f32', width, from, count), [count, width])
}

const slicePrediction = (prediction: tf.Tensor2D | null, from: number, rows: number): tf.Tensor2D | null =>
  prediction && (from === 0 && rows === prediction.shape[0] ? prediction : rowsOf(prediction, from, rows))
