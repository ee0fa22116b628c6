/** The host tier of a recall: rows leave the device, come back, and are fetched one by one. */
import { gatherRows, readRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { decoded } from './host-array'
import { gatherHost, hostPages, uploads } from './host-page'
import { Page, sameForm, type View } from './page'
import { decodeRows, exactRows } from './read'
import type { Rows } from './rows'
import { listStored, mapStored, perUnit } from './stored'
import { ZONES } from './zones'

/**
 * Moves rows `[start, end)` to host memory, into pages per run of views that may lie in one: of one zone, one position shift and one
 * fit. It reads them back from the device.
 */
export async function toHost(of: Rows, start: number, end: number): Promise<void> {
  const { views } = of
  views.splitAt(start)
  views.splitAt(end)
  let at = 0
  for (const zone of ZONES) {
    const runs: { readonly moves: boolean; readonly views: View[] }[] = []
    for (const v of views.in(zone)) {
      const moves = at >= start && at + v.rows <= end && v.page.host === null
      at += v.rows
      const run = runs.at(-1)
      if (moves && run?.moves && sameForm(run.views[0] as View, v)) run.views.push(v)
      else runs.push({ moves, views: [v] })
    }
    if (!runs.some(({ moves }) => moves)) continue
    const next: View[] = []
    for (const run of runs) {
      const [first] = run.views
      if (!run.moves || !first) next.push(...run.views)
      else {
        for (const page of await hostPages(run.views)) next.push({ page, from: 0, rows: page.used, shift: first.shift })
      }
    }
    views.replace({ [zone]: next })
  }
}

/** Brings rows back from host memory. */
export function toDevice({ views }: Rows): void {
  if (!views.onHost) return
  for (const zone of ZONES)
    views.replace({
      [zone]: views.in(zone).map((v) => {
        if (!v.page.host) return v
        const { capacity, form, sealed, rowWise, used, fitted } = v.page
        return { ...v, page: new Page({ stored: uploads(v.page), capacity, form, sealed, rowWise, used, fitted }) }
      }),
    })
}

export const hostBytes = ({ views }: Rows): number =>
  views.onHost ? [...new Set([...views.all()].map((v) => v.page))].reduce((n, page) => n + page.hostBytes, 0) : 0

/**
 * Fetches rows `index` (per head, ascending row numbers of this part, `[heads, n]`) from wherever they lie, and decodes them:
 * f32 `[heads, n, dim]`.
 */
export function fetchRows(of: Rows, index: Int32Array, n: number): tf.Tensor3D {
  const { heads } = of.form
  // Each view gives the rows that it has, gathered and decoded. Then they are put in order.
  const pieces: tf.Tensor3D[] = []
  const source = new Int32Array(heads * n)
  let [first, offset] = [0, 0]
  for (const v of of.views.all()) {
    const start = first
    first += v.rows
    const wanted = Array.from({ length: heads }, (_, h) => {
      const list: number[] = []
      for (let i = 0; i < n; i++) {
        const row = (index[h * n + i] ?? 0) - start
        if (row >= 0 && row < v.rows) list.push(i)
      }
      return list
    })
    const most = Math.max(...wanted.map((w) => w.length))
    if (most === 0) continue
    const local = new Int32Array(heads * most)
    for (const [h, list] of wanted.entries())
      for (const [j, i] of list.entries()) {
        local[h * most + j] = v.from + (index[h * n + i] ?? 0) - start
        source[h * n + i] = offset + j
      }
    pieces.push(fetchFrom(of, v, local, most))
    offset += most
  }
  const order = tf.tensor2d(source, [heads, n], 'int32')
  const counts = pieces.map((p) => p.shape[1])
  const rows = gatherRows(pieces, counts, order, n) as tf.Tensor3D
  tf.dispose([order, ...pieces])
  return rows
}

/** Decodes rows `local` (row numbers of the page, `[heads, count]`) of one view. */
function fetchFrom(of: Rows, v: View, local: Int32Array, count: number): tf.Tensor3D {
  const { heads, store, dim, codec } = of.form
  return tf.tidy(() => {
    const { host } = v.page
    if (!host) {
      const index = tf.tensor2d(
        local.map((row) => row - v.from),
        [heads, count],
        'int32',
      )
      const rows = v.page.sealed ? decodeRows(of, v, 0, v.rows, null) : exactRows(of, v, 0, v.rows)
      return gatherRows([rows], [v.rows], index, count) as tf.Tensor3D
    }
    const { form } = v.page
    // A row of fewer heads is the row of all heads that share it, and they want different ones. So it is fetched for all of them.
    const shared = listStored(host).some(({ shape }) => shape[0] !== heads)
    const wanted = shared ? Int32Array.from(new Set(local)).sort() : local
    const n = shared ? wanted.length : count
    const rowOf = (head: number, i: number) => wanted[shared ? i : head * count + i] ?? 0
    const stored = mapStored(host, form, (t, field) => gatherHost(decoded(t, form.lossless), rowOf, n, perUnit(field)))
    if (!v.page.sealed) return readRows(stored.block['rows'] as tf.Tensor, store, dim, 0, n) as tf.Tensor3D
    if (!codec) throw new Error('a sealed page without a codec')
    const rows = codec.rows(codec.main(stored, n, 0, n, null), stored.scale, 0, v.page.fitted?.state ?? {})
    if (!shared) return rows
    const places = new Map([...wanted].map((row, i) => [row, i]))
    const index = tf.tensor2d(
      local.map((row) => places.get(row) ?? 0),
      [heads, count],
      'int32',
    )
    return gatherRows([rows], [n], index, count) as tf.Tensor3D
  })
}
