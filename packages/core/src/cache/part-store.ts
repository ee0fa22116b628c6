/**
 * The rows of one part (keys or values) of one lane: sinks, then sealed blocks, then the exact recent window.
 * Longer than most files here: every way rows come, move and go stands side by side, since each must keep their order.
 */

import { allocateRows, copyRows, gatherRows, type RowSegment, readRows, writeRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Quantizer, RowRange, RowStore, Tensors, Window } from '../contract'
import { UnsupportedStage } from '../errors'
import { type Account, as3d, copyPage, emptyLike, mapTensors, Page, tensorOf, type View } from './page'

/** Exact rows that will be sealed or dropped live in small pages, so that little of a page is ever idle. */
const WINDOW_PAGE_ROWS = 16
/** Exact rows that stay live in larger ones. */
const DENSE_PAGE_ROWS = 64
/** Sealed rows that gather one by one. */
const SEALED_PAGE_ROWS = 32

export type Zone = 'sink' | 'sealed' | 'window'
export const ZONES: readonly Zone[] = ['sink', 'sealed', 'window']

export class PartStore {
  readonly zones: Record<Zone, View[]> = { sink: [], sealed: [], window: [] }
  private readonly windowPageRows: number

  constructor(
    readonly heads: number,
    readonly dim: number,
    readonly store: RowStore,
    private readonly sinks: number,
    private readonly window: Window,
    readonly quantizer: Quantizer | null,
    private readonly account: Account,
  ) {
    this.windowPageRows = this.seals ? WINDOW_PAGE_ROWS : DENSE_PAGE_ROWS
  }

  /** Whether rows of this part are ever sealed. */
  get seals(): boolean {
    return this.quantizer !== null && this.window.recent !== Number.POSITIVE_INFINITY
  }
  get rows(): number {
    return ZONES.reduce((n, z) => n + this.rowsIn(z), 0)
  }
  rowsIn(zone: Zone): number {
    return this.zones[zone].reduce((n, v) => n + v.rows, 0)
  }
  *views(): Generator<View> {
    for (const zone of ZONES) yield* this.zones[zone]
  }
  /** True when every row can be gathered on its own in one zone: nothing sealed. */
  get exact(): boolean {
    return this.zones.sealed.length === 0
  }

  /** Appends exact rows f32 `[heads, n, dim]`; the first `sinks` rows of the sequence go to the sink zone. */
  append(rows: tf.Tensor, n: number, shift: number): void {
    const begins = this.zones.sealed.length === 0 && this.zones.window.length === 0
    const toSinks = this.seals && begins ? Math.min(n, Math.max(0, this.sinks - this.rowsIn('sink'))) : 0
    if (toSinks > 0) this.write('sink', rows, 0, toSinks, shift)
    if (n > toSinks) this.write('window', rows, toSinks, n - toSinks, shift)
  }

  private write(zone: Zone, rows: tf.Tensor, from: number, count: number, shift: number): void {
    const views = this.zones[zone]
    while (count > 0) {
      let last = views[views.length - 1]
      if (
        !last?.page.appendable ||
        last.page.shared ||
        last.from + last.rows !== last.page.used ||
        last.shift !== shift
      ) {
        const capacity = zone === 'sink' ? Math.max(1, this.sinks) : this.windowPageRows
        last = { page: this.densePage(capacity), from: 0, rows: 0, shift }
        views.push(last)
      }
      const page = last.page
      const n = Math.min(count, page.capacity - page.used)
      writeRows(tensorOf(page, 'rows'), this.store, page.used, rows as tf.Tensor3D, from, n)
      page.used += n
      last.rows += n
      from += n
      count -= n
    }
  }

  private densePage(capacity: number): Page {
    return this.hold(
      new Page(
        { rows: allocateRows(this.store, this.heads, capacity, this.dim) },
        capacity,
        { kind: 'dense', store: this.store },
        true,
        0,
      ),
    )
  }

  /** Seals what the window rule says; each token once, from the exact row. Returns whether anything was sealed. */
  seal(): boolean {
    const quantizer = this.quantizer
    if (!quantizer || !this.seals) return false
    const { recent, block, drain } = this.window
    const spare = this.rowsIn('window') - recent
    if (spare < block) return false
    const whole = quantizer.rowsPerGroup
    const count = drain === 'all' ? Math.floor(spare / whole) * whole : Math.floor(spare / block) * block
    const unit = quantizer.rowsPerGroup > 1 ? (drain === 'all' ? count : block) : count
    for (let done = 0; done < count; done += unit) {
      const rows = this.readExact('window', 0, unit)
      this.storeSealed(
        tf.tidy(() => quantizer.encode(rows)),
        unit,
        quantizer,
      )
      tf.dispose(rows)
      this.dropFront(unit)
    }
    return true
  }

  private storeSealed(block: Tensors, count: number, quantizer: Quantizer): void {
    const shift = this.zones.window[0]?.shift ?? 0
    if (quantizer.rowsPerGroup > 1) {
      const page = this.hold(new Page(block, count, quantizer.layout, false, count))
      this.zones.sealed.push({ page, from: 0, rows: count, shift })
      return
    }
    let from = 0
    while (from < count) {
      const views = this.zones.sealed
      let last = views[views.length - 1]
      if (
        !last?.page.appendable ||
        last.page.shared ||
        last.from + last.rows !== last.page.used ||
        last.shift !== shift
      ) {
        const tensors = mapTensors(block, (t) => emptyLike(t, SEALED_PAGE_ROWS))
        last = {
          page: this.hold(new Page(tensors, SEALED_PAGE_ROWS, quantizer.layout, true, 0)),
          from: 0,
          rows: 0,
          shift,
        }
        views.push(last)
      }
      const page = last.page
      const n = Math.min(count - from, page.capacity - page.used)
      for (const [name, tensor] of Object.entries(block)) {
        const rows = as3d(tensor)
        const target = as3d(tensorOf(page, name))
        copyRows(target, page.used, rows, from, n)
        tf.dispose([rows, target])
      }
      page.used += n
      last.rows += n
      from += n
    }
    tf.dispose(Object.values(block))
  }

  /** f32 `[heads, count, dim]` from row `from` of an exact zone. */
  private readExact(zone: Zone, from: number, count: number): tf.Tensor3D {
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

  private dropFront(count: number): void {
    const views = this.zones.window
    while (count > 0) {
      const first = views[0]
      if (!first) return
      const n = Math.min(count, first.rows)
      first.from += n
      first.rows -= n
      count -= n
      if (first.rows === 0) {
        views.shift()
        this.letGo(first)
      }
    }
  }

  /** Every row as f32 `[heads, rows, dim]`, in storage order. */
  read(): tf.Tensor3D {
    return tf.tidy(() => {
      const pieces = [...this.views()].map((v) => this.decodeView(v))
      return pieces.length ? concatRows(pieces) : tf.zeros([this.heads, 0, this.dim])
    })
  }

  private decodeView(v: View): tf.Tensor3D {
    if (v.page.layout.kind === 'dense')
      return readRows(tensorOf(v.page, 'rows'), this.store, this.dim, v.from, v.rows) as tf.Tensor3D
    if (!this.quantizer) throw new Error('a sealed page without a quantizer')
    const all = this.quantizer.decode(v.page.tensors, v.page.capacity)
    return tf.slice(all, [0, v.from, 0], [-1, v.rows, -1]) as tf.Tensor3D
  }

  /** Segments for the attention kernels; custom layouts come decoded, in `transient` for the caller to dispose. */
  segments(transient: tf.Tensor[], variantOf: (shift: number) => number): RowSegment[] {
    return [...this.views()].map((v) => {
      const query = variantOf(v.shift)
      if (v.page.layout.kind !== 'custom') return this.segmentOf(v, v.page.layout, query)
      const rows = this.decodeView(v)
      transient.push(rows)
      return { layout: { kind: 'dense', store: 'f32' }, tensors: [rows], from: 0, rows: v.rows, query }
    })
  }

  /** The kernels remember what they checked per segment object, so an unchanged view keeps its segment. */
  private segmentOf(v: View, layout: RowSegment['layout'], query: number): RowSegment {
    const known = this.known.get(v)
    if (known && known.from === v.from && known.rows === v.rows && known.query === query) return known
    const tensors =
      layout.kind === 'dense' ? [tensorOf(v.page, 'rows')] : [tensorOf(v.page, 'words'), tensorOf(v.page, 'metadata')]
    const segment: RowSegment = { layout, tensors, from: v.from, rows: v.rows, query }
    this.known.set(v, segment)
    return segment
  }
  private readonly known = new WeakMap<View, RowSegment>()

  /** Keeps rows `index` int32 `[heads, n]` (ascending); the first of them become the sinks. Only where nothing is sealed. */
  gather(index: tf.Tensor, n: number): void {
    const old = [...this.views()]
    const sinks = this.seals ? Math.min(this.sinks, n) : 0
    this.zones.sink = this.gathered(old, index, 0, sinks, Math.max(1, this.sinks))
    this.zones.window = this.gathered(old, index, sinks, n, this.windowPageRows)
    for (const v of old) this.letGo(v)
  }

  /** Rows `index[:, first .. end]` of some views in pages of their own. */
  private gathered(from: readonly View[], index: tf.Tensor, first: number, end: number, capacity: number): View[] {
    const fresh: View[] = []
    for (let at = first; at < end; at += capacity) {
      const count = Math.min(capacity, end - at)
      const part = tf.slice(index as tf.Tensor2D, [0, at], [-1, count])
      const rows = gatherRows(
        from.map((v) => tensorOf(v.page, 'rows')),
        from.map((v) => v.rows),
        part,
        capacity,
        from.map((v) => v.from),
      )
      part.dispose()
      const page = this.hold(new Page({ rows }, capacity, { kind: 'dense', store: this.store }, true, count))
      fresh.push({ page, from: 0, rows: count, shift: 0 })
    }
    return fresh
  }

  /** Row bounds of blocks that live and die together. */
  *blocks(): Generator<RowRange> {
    let at = 0
    for (const v of this.views()) {
      if (!v.page.rowWise) yield { start: at, end: at + v.rows }
      at += v.rows
    }
  }

  /** Drops rows `[start, end)`; a block that is touched must be covered whole. */
  drop(start: number, end: number): void {
    this.splitAt(start)
    this.splitAt(end)
    let at = 0
    for (const zone of ZONES)
      this.zones[zone] = this.zones[zone].filter((v) => {
        const stays = at + v.rows <= start || at >= end
        at += v.rows
        if (!stays) this.letGo(v)
        return stays
      })
  }

  /** Rows `[start, end)` were dropped: the positions of later rows move down by as many. `isLive`: of rows before the drop. */
  renumber(start: number, end: number, isLive: (row: number) => boolean): void {
    this.splitAt(end)
    let at = 0
    for (const v of this.views()) {
      const last = at + v.rows
      const keepsEarlier = Array.from({ length: Math.max(0, start - at) }, (_, i) => at + i).some(isLive)
      if (at < start && last > end && keepsEarlier)
        throw new UnsupportedStage(
          'slot positions',
          `rows ${at} to ${last} are sealed together and would need two positions. Keep the sinks exact: window({ sinks: 4 }, ...).`,
        )
      if (at >= start || (last > end && !keepsEarlier)) v.shift += end - start
      at = last
    }
  }

  /** Makes row `at` the first of a view, unless it lies inside a block. */
  private splitAt(row: number): void {
    let at = 0
    for (const zone of ZONES)
      this.zones[zone] = this.zones[zone].flatMap((v) => {
        const head = row - at
        at += v.rows
        if (head <= 0 || head >= v.rows || !v.page.rowWise) return [v]
        this.hold(v.page)
        return [
          { ...v, rows: head },
          { ...v, from: v.from + head, rows: v.rows - head },
        ]
      })
  }

  /** Views of this store per page; the store lets a page go with its last view. */
  private readonly held = new Map<Page, number>()

  private hold(page: Page): Page {
    const views = this.held.get(page) ?? 0
    if (views === 0) this.account.add(page.bytes)
    this.held.set(page, views + 1)
    return page
  }

  private letGo(v: View): void {
    const left = (this.held.get(v.page) ?? 1) - 1
    if (left > 0) {
      this.held.set(v.page, left)
      return
    }
    this.held.delete(v.page)
    this.account.add(-v.page.bytes)
    v.page.release()
  }

  /** Takes over the rows of another store: full pages shared, appendable ones copied. */
  adopt(from: PartStore): void {
    for (const zone of ZONES)
      for (const v of from.zones[zone]) {
        const copy = v.page.appendable && v.from + v.rows === v.page.used
        const page = this.hold(copy ? copyPage(v.page) : this.held.has(v.page) ? v.page : v.page.retain())
        this.zones[zone].push({ ...v, page })
      }
  }

  /** Puts a restored view in its zone. */
  restore(zone: Zone, view: View): void {
    this.hold(view.page)
    this.zones[zone].push(view)
  }

  pages(): ReadonlySet<Page> {
    return new Set(this.held.keys())
  }

  dispose(): void {
    for (const v of [...this.views()]) this.letGo(v)
    for (const zone of ZONES) this.zones[zone] = []
  }
}

const concatRows = (pieces: tf.Tensor3D[]): tf.Tensor3D => {
  const [only] = pieces
  return pieces.length === 1 && only ? only : tf.concat(pieces, 1)
}
