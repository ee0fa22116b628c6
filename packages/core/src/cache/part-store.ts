/**
 * The rows of one part (keys or values) of one lane, for writing: every way rows come, move and go stands side by side here,
 * since each must keep their order.
 */

import { allocateRows, copyRows, gatherRows, writeRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { RowRange, RowStore, Tensors, Window } from '../contract'
import { UnsupportedStage } from '../errors'
import type { Codec } from './codec'
import { hostPage, unitOf } from './host-tier'
import { type Account, as3d, copyPage, emptyLike, mapTensors, Page, tensorOf, type View } from './page'
import { copyOf } from './positions'
import { StoredRows, ZONES, type Zone } from './stored-rows'

/** Exact rows that will be sealed or dropped live in small pages, so that little of a page is ever idle. */
const WINDOW_PAGE_ROWS = 16
/** Exact rows that stay live in larger ones. */
const DENSE_PAGE_ROWS = 64
/** Sealed rows that gather one by one. */
const SEALED_PAGE_ROWS = 32

export class PartStore extends StoredRows {
  private readonly windowPageRows: number

  constructor(
    heads: number,
    dim: number,
    store: RowStore,
    private readonly sinks: number,
    private readonly window: Window,
    codec: Codec | null,
    account: Account,
  ) {
    super(heads, dim, store, codec, account)
    this.windowPageRows = this.seals ? WINDOW_PAGE_ROWS : DENSE_PAGE_ROWS
  }

  /** Whether rows of this part are ever sealed. */
  get seals(): boolean {
    return this.codec !== null && this.window.recent !== Number.POSITIVE_INFINITY
  }
  /** Rows that nothing will change any more, from the first: sealed ones where rows are sealed, else all. */
  get settled(): number {
    return this.seals ? this.rowsIn('sink') + this.rowsIn('sealed') : this.rows
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
        this.account.hold(last.page)
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

  private densePage(capacity: number, rows = allocateRows(this.store, this.heads, capacity, this.dim), used = 0): Page {
    return new Page({
      tensors: { rows },
      capacity,
      layout: { kind: 'dense', store: this.store },
      sealed: false,
      rowWise: true,
      used,
    })
  }

  /** How many rows the window rule seals now, and in which units. */
  get due(): { readonly count: number; readonly unit: number } {
    const none = { count: 0, unit: 1 }
    if (!this.codec || !this.seals) return none
    const { recent, block, drain } = this.window
    const spare = this.rowsIn('window') - recent
    if (spare < block) return none
    const whole = this.codec.rowsPerGroup
    const count = drain === 'all' ? Math.floor(spare / whole) * whole : Math.floor(spare / block) * block
    return { count, unit: this.codec.byBlocks && drain !== 'all' ? block : count }
  }

  /** The oldest exact rows of the window, f32 `[heads, count, dim]`. */
  front(count: number): tf.Tensor3D {
    return this.readExact('window', 0, count)
  }

  /**
   * The oldest rows of the window become what they were encoded to. Takes over the block's tensors; of a layer group the
   * first store makes the page and the others are handed it.
   */
  seal(count: number, block: Tensors | Page, exempt: Int32Array | null): Page | null {
    const codec = this.codec
    if (!codec) throw new Error('nothing seals here')
    const shift = this.zones.window[0]?.shift ?? 0
    let page: Page | null = null
    if (block instanceof Page) page = block
    else if (codec.byBlocks)
      page = new Page({
        tensors: block,
        capacity: count,
        layout: codec.layout,
        sealed: true,
        rowWise: false,
        used: count,
        exempt,
      })
    else this.appendSealed(block, count, codec, shift)
    if (page) {
      this.account.hold(page)
      this.zones.sealed.push({ page, from: 0, rows: count, shift })
    }
    this.dropFront(count)
    return page
  }

  /** Rows that gather one by one are copied into pages of a fixed size; each sealing begins at a whole unit of metadata. */
  private appendSealed(block: Tensors, count: number, codec: Codec, shift: number): void {
    const unit = codec.rowsPerUnit
    for (let from = 0; from < count; ) {
      const view = this.openView(block, codec, shift)
      const { page } = view
      const n = Math.min(count - from, page.capacity - page.used)
      for (const [name, tensor] of Object.entries(block)) {
        const per = unitOf(name, unit)
        const rows = as3d(tensor)
        const target = as3d(tensorOf(page, name))
        copyRows(target, page.used / per, rows, from / per, Math.ceil(n / per))
        tf.dispose([rows, target])
      }
      page.used += Math.ceil(n / unit) * unit
      view.rows += n
      from += n
    }
    tf.dispose(Object.values(block))
  }

  /** The last sealed view if rows can follow it, else a new one: in the same page where there is room, or in a page like `block`. */
  private openView(block: Tensors, codec: Codec, shift: number): View {
    const views = this.zones.sealed
    const last = views[views.length - 1]
    const room = last?.page.appendable && !last.page.shared && this.ends(last)
    if (last && room && last.shift === shift && last.from + last.rows === last.page.used) return last
    const page = room
      ? last.page
      : new Page({
          tensors: Object.fromEntries(
            Object.entries(block).map(([name, t]) => [
              name,
              emptyLike(t, SEALED_PAGE_ROWS / unitOf(name, codec.rowsPerUnit)),
            ]),
          ),
          capacity: SEALED_PAGE_ROWS,
          layout: codec.layout,
          sealed: true,
          rowWise: true,
          used: 0,
        })
    const view: View = { page: this.account.hold(page), from: page.used, rows: 0, shift }
    views.push(view)
    return view
  }

  /** Whether a view reaches the end of what its page holds, but for the rest of a unit. */
  private ends(v: View): boolean {
    const unit = this.unitOf(v.page)
    return Math.ceil((v.from + v.rows) / unit) * unit === v.page.used
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

  /** Keeps rows `index` int32 `[heads, n]` (ascending); the first of them become the sinks. Only where nothing is sealed. */
  gather(index: tf.Tensor, n: number): void {
    const old = [...this.views()]
    const sinks = this.seals ? Math.min(this.sinks, n) : 0
    this.zones.sink = this.gathered(old, index, 0, sinks, Math.max(1, this.sinks))
    this.zones.window = this.gathered(old, index, sinks, n, this.windowPageRows)
    for (const v of old) this.letGo(v)
    this.version++
  }

  /** Rows f32 `[heads, n, dim]` take the place of everything stored (a rewritable exact zone). */
  rewrite(rows: tf.Tensor): void {
    for (const v of [...this.views()]) this.letGo(v)
    for (const zone of ZONES) this.zones[zone] = []
    this.write('window', rows, 0, rows.shape[1] ?? 0, 0)
    this.version++
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
      const page = this.account.hold(this.densePage(capacity, rows, count))
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
    this.dropKept(start, end)
    this.version++
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
        this.account.hold(v.page)
        return [
          { ...v, rows: head },
          { ...v, from: v.from + head, rows: v.rows - head },
        ]
      })
  }

  private letGo(v: View): void {
    this.account.letGo(v.page)
  }

  /** Remembers reconstructions `[n, width]` of rows that were just sealed; takes them over. */
  keep(rows: tf.Tensor2D): void {
    const known = this.kept.tensor
    this.kept.replace(known ? (tf.concat([known, rows], 0) as tf.Tensor2D) : rows)
    if (known) rows.dispose()
  }

  private dropKept(start: number, end: number): void {
    const kept = this.kept.tensor
    if (!kept) return
    const sinks = this.rowsIn('sink')
    const [n] = kept.shape
    const [a, b] = [Math.min(Math.max(start - sinks, 0), n), Math.min(Math.max(end - sinks, 0), n)]
    if (a < b)
      this.kept.replace(
        tf.tidy(() =>
          tf.concat([tf.slice(kept, [0, 0], [a, -1]), tf.slice(kept, [b, 0], [n - b, -1])], 0),
        ) as tf.Tensor2D,
      )
  }

  /** What this prompt fitted; takes the tensors over. */
  fit(state: Tensors): void {
    this.state = state
    this.account.add(this.stateBytes)
  }

  /** Moves rows `[start, end)` to host memory, one page per zone they lie in. */
  async toHost(start: number, end: number): Promise<void> {
    this.splitAt(start)
    this.splitAt(end)
    let at = 0
    for (const zone of ZONES) {
      const views = this.zones[zone]
      const inside = views.filter((v) => {
        const first = at
        at += v.rows
        return first >= start && at <= end && v.page.host === null
      })
      const [first] = inside
      if (!first) continue
      const page = await hostPage(inside, this.unitOf(first.page))
      const moved: View = { page: this.account.hold(page), from: 0, rows: page.used, shift: first.shift }
      this.zones[zone] = views.flatMap((v) => (v === first ? [moved] : inside.includes(v) ? [] : [v]))
      for (const v of inside) this.letGo(v)
    }
    this.version++
  }

  /** Takes over the rows of another store: full pages shared, appendable ones copied. */
  adopt(from: PartStore): void {
    // A page that has a hole is copied once for all of its views.
    const copies = new Map<Page, Page>()
    for (const v of from.views()) if (v.page.appendable && this.ends(v)) copies.set(v.page, copyPage(v.page))
    for (const zone of ZONES)
      for (const v of from.zones[zone]) {
        const page = copies.get(v.page) ?? (this.account.has(v.page) ? v.page : v.page.retain())
        this.zones[zone].push({ ...v, page: this.account.hold(page) })
      }
    if (Object.keys(from.state).length > 0) this.fit(mapTensors(from.state, copyOf))
    const kept = from.kept.tensor
    if (kept) this.kept.replace(copyOf(kept) as tf.Tensor2D)
    this.version++
  }

  /** Puts a restored view in its zone. */
  restore(zone: Zone, view: View): void {
    this.account.hold(view.page)
    this.zones[zone].push(view)
  }

  dispose(): void {
    for (const v of [...this.views()]) this.letGo(v)
    for (const zone of ZONES) this.zones[zone] = []
    this.account.add(-this.stateBytes)
    tf.dispose(Object.values(this.state))
    this.state = {}
    this.kept.replace(null)
  }
}
