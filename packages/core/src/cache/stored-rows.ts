/** The rows of one part (keys or values) of one lane, for reading: decoded, as latents, as segments for the attention kernels, or fetched. */

import { gatherRows, type RowSegment, readRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { RowStore, Tensors } from '../contract'
import { type Codec, mergeHeads } from './codec'
import { gatherHost, unitOf, uploads } from './host-tier'
import { type Account, Held, type Page, tensorOf, type View } from './page'

export type Zone = 'sink' | 'sealed' | 'window'
export const ZONES: readonly Zone[] = ['sink', 'sealed', 'window']

/** Views in three zones: sinks, then sealed blocks, then the exact recent window. */
export class StoredRows {
  readonly zones: Record<Zone, View[]> = { sink: [], sealed: [], window: [] }
  /** What the transform fitted on the last prompt; null until then. Counted as perPrompt. */
  fitted: Page | null = null
  /** Changes whenever rows go: reconstructions of another version are stale. */
  version = 0
  /** Reconstructions `[sealed rows, width]` of a predicted part that keeps them. */
  readonly kept: Held<tf.Tensor2D>

  constructor(
    readonly heads: number,
    readonly dim: number,
    readonly store: RowStore,
    readonly codec: Codec | null,
    protected readonly account: Account,
  ) {
    this.kept = new Held(account)
  }

  get rows(): number {
    return ZONES.reduce((n, z) => n + this.rowsIn(z), 0)
  }
  rowsIn(zone: Zone): number {
    return this.zones[zone].reduce((n, v) => n + v.rows, 0)
  }
  /** The row after the last of each zone, in order. */
  get zoneEnds(): readonly number[] {
    let at = 0
    return ZONES.map((zone) => {
      at += this.rowsIn(zone)
      return at
    })
  }
  /** The zone that row `row` lies in. */
  zoneAt(row: number): Zone {
    const at = this.zoneEnds.findIndex((end) => row < end)
    return ZONES[at] ?? 'window'
  }
  *views(): Generator<View> {
    for (const zone of ZONES) yield* this.zones[zone]
  }
  /** Rows that share a row of a page's metadata. */
  protected unitOf(page: Page): number {
    return page.sealed ? (this.codec?.rowsPerUnit ?? 1) : 1
  }
  /** What rows that are sealed now are encoded with. */
  get state(): Tensors {
    return this.fitted?.tensors ?? {}
  }
  /** What the rows around `row` were encoded with. */
  stateAt(row: number): Tensors {
    const [first] = this.cut(row, 1)
    return first?.view.page.fitted?.tensors ?? {}
  }

  /** f32 `[heads, count, dim]` from row `from` of an exact zone. */
  protected readExact(zone: Zone, from: number, count: number): tf.Tensor3D {
    return tf.tidy(() => {
      const pieces: tf.Tensor3D[] = []
      let skip = from
      let left = count
      for (const v of this.zones[zone]) {
        if (left === 0) break
        const n = Math.min(left, v.rows - skip)
        if (n <= 0) {
          skip -= v.rows
          continue
        }
        pieces.push(readRows(tensorOf(v.page, 'rows'), this.store, this.dim, v.from + skip, n) as tf.Tensor3D)
        left -= n
        skip = 0
      }
      return concatRows(pieces)
    })
  }

  /** Every row as f32 `[heads, rows, dim]`, in storage order. `prediction` `[sealed rows, width]` for a predicted part. */
  read(prediction: tf.Tensor2D | null = null): tf.Tensor3D {
    return this.readRange(0, this.rows, prediction)
  }

  /** Rows `[from, from + count)` of all zones; `prediction` covers the whole sealed zone. */
  readRange(from: number, count: number, prediction: tf.Tensor2D | null = null): tf.Tensor3D {
    return tf.tidy(() => {
      const sinks = this.rowsIn('sink')
      const pieces = [...this.cut(from, count)].map(({ view, at, skip, rows }) =>
        view.page.sealed
          ? this.decode(view, skip, rows, slicePrediction(prediction, at - sinks, rows))
          : this.exactRows(view, skip, rows),
      )
      return pieces.length ? concatRows(pieces) : tf.zeros([this.heads, 0, this.dim])
    })
  }

  /** What later stages would see of rows `[from, from + count)`: `main` merged over heads, `[count, width]`. */
  readMain(
    from: number,
    count: number,
    predictionOf: (from: number, count: number) => tf.Tensor2D | null,
  ): tf.Tensor2D {
    const kept = this.kept.tensor
    const sinks = this.rowsIn('sink')
    if (kept && from >= sinks && from + count <= sinks + kept.shape[0])
      return tf.slice(kept, [from - sinks, 0], [count, -1])
    return tf.tidy(() => {
      const pieces: tf.Tensor2D[] = []
      for (const { view, at, skip, rows } of this.cut(from, count))
        pieces.push(
          mergeHeads(
            view.page.sealed && this.codec
              ? this.codec.main(uploads(view.page), view.page.capacity, view.from + skip, rows, predictionOf(at, rows))
              : this.exactRows(view, skip, rows),
          ),
        )
      const [only] = pieces
      return pieces.length === 1 && only ? only : (tf.concat(pieces, 0) as tf.Tensor2D)
    })
  }

  /** Latents `[mainHeads, count, mainDim]` of sealed rows `[from, from + count)`, of a transform without predictor. */
  readLatents(from: number, count: number): tf.Tensor3D {
    const { codec } = this
    if (!codec) throw new Error('no latents without a codec')
    return tf.tidy(() =>
      concatRows(
        [...this.cut(from, count)].map(({ view, skip, rows }) =>
          codec.main(uploads(view.page), view.page.capacity, view.from + skip, rows, null),
        ),
      ),
    )
  }

  /** How far the positions of the rows around `row` moved down. */
  shiftAt(row: number): number {
    const [first] = this.cut(row, 1)
    return first?.view.shift ?? 0
  }

  /** Whether some rows lie in host memory. */
  get onHost(): boolean {
    for (const v of this.views()) if (v.page.host) return true
    return false
  }

  /** Views that cover rows `[from, from + count)`: row number, rows skipped in the view, rows taken. */
  private *cut(from: number, count: number): Generator<{ view: View; at: number; skip: number; rows: number }> {
    let at = 0
    for (const view of this.views()) {
      const skip = Math.max(0, from - at)
      const rows = Math.min(view.rows, from + count - at) - skip
      if (rows > 0) yield { view, at: at + skip, skip, rows }
      at += view.rows
    }
  }

  private exactRows(v: View, skip: number, rows: number): tf.Tensor3D {
    return readRows(uploads(v.page)['rows'] as tf.Tensor, this.store, this.dim, v.from + skip, rows) as tf.Tensor3D
  }

  private decode(v: View, skip: number, rows: number, prediction: tf.Tensor2D | null): tf.Tensor3D {
    const codec = this.codec
    if (!codec) throw new Error('a sealed page without a codec')
    const tensors = uploads(v.page)
    const from = v.from + skip
    const main = codec.main(tensors, v.page.capacity, from, rows, prediction)
    const decoded = codec.rows(main, tensors, from, v.page.fitted?.tensors ?? {})
    return v.page.exempt ? this.patch(decoded, v.page, from, rows) : decoded
  }

  /** Puts the rows that were exempt from the transform in their places. */
  private patch(decoded: tf.Tensor3D, page: Page, from: number, rows: number): tf.Tensor3D {
    const { exempt } = page
    const exact = page.tensors[`exempt.rows.${this.codec?.parts.member ?? 0}`]
    if (!exempt || !exact) return decoded
    const each = exempt.length / this.heads
    const map = new Int32Array(this.heads * rows)
    for (let h = 0; h < this.heads; h++) {
      for (let i = 0; i < rows; i++) map[h * rows + i] = i
      for (let j = 0; j < each; j++) {
        const row = (exempt[h * each + j] ?? -1) - from
        if (row >= 0 && row < rows) map[h * rows + row] = rows + j
      }
    }
    const originals = readRows(exact, this.store, this.dim, 0, each) as tf.Tensor3D
    const index = tf.tensor2d(map, [this.heads, rows], 'int32')
    return gatherRows([decoded, originals], [rows, each], index, rows) as tf.Tensor3D
  }

  /** Whether attention kernels can read every stored row as it is. */
  get fused(): boolean {
    return (this.zones.sealed.length === 0 || (this.codec?.fused ?? false)) && !this.onHost
  }

  /**
   * Segments of rows `[from, from + count)` for the attention kernels: rows as they are stored, which must be a form that the
   * kernels read. `unrotated`: keys stored before RoPE.
   */
  segments(from: number, count: number, variantOf: (shift: number) => number, unrotated: boolean): RowSegment[] {
    if (from === 0 && count === this.rows)
      return [...this.views()].map((v) => this.segmentOf(v, variantOf(v.shift), unrotated))
    return [...this.cut(from, count)].map(({ view, skip, rows }) =>
      skip === 0 && rows === view.rows
        ? this.segmentOf(view, variantOf(view.shift), unrotated)
        : this.makeSegment(view, view.from + skip, rows, variantOf(view.shift), unrotated),
    )
  }

  /** The kernels remember what they checked per segment object, so an unchanged view keeps its segment. */
  private segmentOf(v: View, query: number, unrotated: boolean): RowSegment {
    const known = this.known.get(v)
    if (known && known.from === v.from && known.rows === v.rows && known.query === query) return known
    const segment = this.makeSegment(v, v.from, v.rows, query, unrotated)
    this.known.set(v, segment)
    return segment
  }
  private readonly known = new WeakMap<View, RowSegment>()

  private makeSegment(v: View, from: number, rows: number, query: number, unrotated: boolean): RowSegment {
    const { layout } = v.page
    const tensors = uploads(v.page)
    const base = { from, rows, query, ...(unrotated ? { unrotated } : {}) }
    const named = (...names: string[]) => names.map((n) => tensors[n]).filter((t): t is tf.Tensor => t !== undefined)
    if (layout.kind === 'dense') return { layout, tensors: named('rows'), ...base }
    if (layout.kind === 'affine') return { layout, tensors: named('words', 'metadata'), ...base }
    if (layout.kind === 'custom') throw new Error('a custom layout has no segment')
    const table = this.codec?.parts.quantizer?.table
    return { layout, tensors: named('codes', 'metadata'), ...(table ? { table } : {}), ...base }
  }

  /**
   * Rows `index` (per head, ascending row numbers of this store, `[heads, n]`) fetched from wherever they lie and decoded,
   * f32 `[heads, n, dim]`.
   */
  fetch(index: Int32Array, n: number): tf.Tensor3D {
    const places = [...this.views()].map((v) => ({ v, at: 0 }))
    let at = 0
    for (const place of places) {
      place.at = at
      at += place.v.rows
    }
    // Per view: the rows it gives, gathered there and decoded; then put in order.
    const pieces: tf.Tensor3D[] = []
    const source = new Int32Array(this.heads * n)
    let offset = 0
    for (const { v, at: first } of places) {
      const wanted = Array.from({ length: this.heads }, (_, h) =>
        Array.from({ length: n }, (_, i) => i).filter((i) => {
          const row = (index[h * n + i] ?? 0) - first
          return row >= 0 && row < v.rows
        }),
      )
      const most = Math.max(...wanted.map((w) => w.length))
      if (most === 0) continue
      const local = new Int32Array(this.heads * most)
      wanted.forEach((list, h) => {
        list.forEach((i, j) => {
          local[h * most + j] = v.from + (index[h * n + i] ?? 0) - first
          source[h * n + i] = offset + j
        })
      })
      pieces.push(this.fetchFrom(v, local, most))
      offset += most
    }
    const order = tf.tensor2d(source, [this.heads, n], 'int32')
    const rows = gatherRows(
      pieces,
      pieces.map((p) => p.shape[1]),
      order,
      n,
    ) as tf.Tensor3D
    tf.dispose([order, ...pieces])
    return rows
  }

  /** Rows `local` (row numbers of the page, `[heads, count]`) of one view, decoded. */
  private fetchFrom(v: View, local: Int32Array, count: number): tf.Tensor3D {
    return tf.tidy(() => {
      const { host } = v.page
      if (!host) {
        const index = tf.tensor2d(
          local.map((row) => row - v.from),
          [this.heads, count],
          'int32',
        )
        const rows = v.page.sealed ? this.decode(v, 0, v.rows, null) : this.exactRows(v, 0, v.rows)
        return gatherRows([rows], [v.rows], index, count) as tf.Tensor3D
      }
      const tensors = Object.fromEntries(
        Object.entries(host).map(([name, t]) => [name, gatherHost(t, local, count, unitOf(name, this.unitOf(v.page)))]),
      )
      if (!v.page.sealed) return readRows(tensors['rows'] as tf.Tensor, this.store, this.dim, 0, count) as tf.Tensor3D
      if (!this.codec) throw new Error('a sealed page without a codec')
      return this.codec.rows(this.codec.main(tensors, count, 0, count, null), tensors, 0, v.page.fitted?.tensors ?? {})
    })
  }

  get hostBytes(): number {
    return [...new Set([...this.views()].map((v) => v.page))].reduce((n, page) => n + page.hostBytes, 0)
  }

  pages(): ReadonlySet<Page> {
    return new Set([...this.views()].map((v) => v.page))
  }
}

const slicePrediction = (prediction: tf.Tensor2D | null, from: number, rows: number): tf.Tensor2D | null =>
  prediction && (from === 0 && rows === prediction.shape[0] ? prediction : tf.slice(prediction, [from, 0], [rows, -1]))

const concatRows = (pieces: tf.Tensor3D[]): tf.Tensor3D => {
  const [only] = pieces
  return pieces.length === 1 && only ? only : tf.concat(pieces, 1)
}
