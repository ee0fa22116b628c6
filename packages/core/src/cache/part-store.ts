/**
 * The rows of one part (keys or values) of one lane, for writing: every way rows come, move and go stands side by side here,
 * since each must keep their order.
 */

import { allocateRows, copyRows, gatherRows, writeRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { RowRange, RowStore, Tensors, Window } from '../contract'
import { UnsupportedStage } from '../errors'
import type { Codec } from './codec'
import { gatherPages } from './gather'
import { hostPage, unitOf, uploads } from './host-tier'
import { type Account, as3d, copyPage, emptyLike, fittedPage, Page, tensorOf, type View } from './page'
import { copyOf } from './positions'
import { StoredRows, ZONES, type Zone } from './stored-rows'

/** Exact rows that will be sealed live in small pages, so that little of a page is ever idle: a window of them in about so many pages. */
const WINDOW_PAGES = 16
const WINDOW_PAGE_ROWS = { least: 4, most: 16 } as const
/** Exact rows that stay exact live in larger ones. */
const DENSE_PAGE_ROWS = 64
/** Sealed rows that gather one by one; fewer to a page where tokens are dropped at any time, since such caches stay small. */
const SEALED_PAGE_ROWS = { usual: 32, dropping: 16 } as const
/** The share of a part's rows in use that may lie idle in its pages before they are copied into full ones. */
const IDLE_SHARE = 1 / 24

export class PartStore extends StoredRows {
  private readonly windowPageRows: number
  private readonly sealedPageRows: number

  constructor(
    heads: number,
    dim: number,
    store: RowStore,
    private readonly sinks: number,
    private readonly window: Window,
    codec: Codec | null,
    /** Tokens are dropped at any time, so blocks are sealed as small as the codec allows. */
    private readonly dropsAlways: boolean,
    account: Account,
  ) {
    super(heads, dim, store, codec, account)
    this.sealedPageRows = dropsAlways ? SEALED_PAGE_ROWS.dropping : SEALED_PAGE_ROWS.usual
    const { least, most } = WINDOW_PAGE_ROWS
    const share = window.recent > 0 || dropsAlways ? Math.ceil(window.recent / WINDOW_PAGES) : most
    this.windowPageRows = this.seals ? Math.min(most, Math.max(least, share)) : DENSE_PAGE_ROWS
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
    while (count > 0) {
      const last = this.openExact(zone, shift)
      const page = last.page
      const n = Math.min(count, page.capacity - page.used)
      writeRows(tensorOf(page, 'rows'), this.store, page.used, rows as tf.Tensor3D, from, n)
      page.used += n
      last.rows += n
      from += n
      count -= n
    }
  }

  /** The last view if exact rows can follow it; where they are shifted otherwise, a view behind it in the same page; else one of a new page. */
  private openExact(zone: Zone, shift: number): View {
    const views = this.zones[zone]
    const last = views[views.length - 1]
    const page = last?.page
    if (last && page?.rowWise && page.host === null && !page.shared) {
      // Rows behind the last view were dropped and belong to nobody.
      page.used = last.from + last.rows
      if (page.used < page.capacity && last.shift === shift) return last
      if (page.used < page.capacity) return this.addView(views, page, shift)
    }
    const capacity = zone === 'sink' ? Math.max(1, this.sinks) : this.windowPageRows
    return this.addView(views, this.densePage(capacity), shift)
  }

  private addView(views: View[], page: Page, shift: number): View {
    const view: View = { page: this.account.hold(page), from: page.used, rows: 0, shift }
    views.push(view)
    return view
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
    return { count, unit: this.unitOfSealing(count) }
  }

  /** Rows that are sealed into one page. A transform may look at its whole block; a quantizer alone groups what it says it groups. */
  private unitOfSealing(count: number): number {
    const { codec, window } = this
    if (!codec?.byBlocks) return count
    if (this.dropsAlways && !codec.parts.transform) return codec.rowsPerGroup
    return window.drain === 'all' ? count : window.block
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
        fitted: this.fitted,
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
    const room = last?.page.appendable && !last.page.shared && last.page.fitted === this.fitted && this.ends(last)
    if (last && room && last.shift === shift && last.from + last.rows === last.page.used) return last
    const page = room
      ? last.page
      : new Page({
          tensors: Object.fromEntries(
            Object.entries(block).map(([name, t]) => [
              name,
              emptyLike(t, this.sealedPageRows / unitOf(name, codec.rowsPerUnit)),
            ]),
          ),
          capacity: this.sealedPageRows,
          layout: codec.layout,
          sealed: true,
          rowWise: true,
          used: 0,
          fitted: this.fitted,
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

  /** What this prompt fitted, for the rows that are sealed from now on; takes the tensors over. */
  fit(state: Tensors): void {
    const before = this.fitted
    this.fitted = this.account.hold(fittedPage(state))
    if (before) this.account.letGo(before)
  }

  /** Whether every row can be copied on its own: no blocks, nothing in host memory, one position shift and one fit in each zone. */
  get gathers(): boolean {
    return ZONES.every((zone) => {
      const [first] = this.zones[zone]
      return this.zones[zone].every((v) => isFree(v) && first && sameForm(v, first))
    })
  }

  /**
   * Keeps rows `index` int32 `[heads, n]`, zone by zone: row numbers of this store, the first `counts.sink` columns of rows of the
   * sink zone and so on. Only where `gathers`.
   */
  gatherZones(index: tf.Tensor2D, counts: Readonly<Record<Zone, number>>): void {
    let [row, column] = [0, 0]
    for (const zone of ZONES) {
      const views = this.zones[zone]
      const rows = this.rowsIn(zone)
      const local = tf.tidy(() => tf.sub(tf.slice(index, [0, column], [-1, counts[zone]]), tf.scalar(row, 'int32')))
      this.zones[zone] = counts[zone] > 0 ? this.copied(views, local as tf.Tensor2D, zone, false) : []
      local.dispose()
      for (const v of views) this.letGo(v)
      row += rows
      column += counts[zone]
    }
    this.version++
  }

  /** Copies rows into full pages where too much of the pages lies idle: the rows before and after them were dropped. */
  compact(): void {
    const inUse = [...this.views()].reduce((n, v) => n + (v.rows * v.page.bytes) / v.page.capacity, 0)
    const idle = ZONES.map((zone) => this.idleIn(zone))
    if (idle.reduce((a, b) => a + b, 0) <= inUse * IDLE_SHARE) return
    for (const [i, zone] of ZONES.entries()) if ((idle[i] ?? 0) > 0) this.compactZone(zone)
  }

  /** Bytes of a zone's pages, blocks apart, that hold no rows in use and never will; the last page's free end is not among them. */
  private idleIn(zone: Zone): number {
    const views = this.zones[zone].filter(isFree)
    const inUse = new Map<Page, number>()
    for (const v of views) inUse.set(v.page, (inUse.get(v.page) ?? 0) + v.rows)
    const free = (page: Page, rows: number) => ((page.capacity - rows) * page.bytes) / page.capacity
    const tail = views[views.length - 1]?.page
    return [...inUse].reduce((sum, [page, rows]) => sum + free(page, rows), tail ? -free(tail, tail.used) : 0)
  }

  /** Copies each run of rows of one form; blocks stay as they are. */
  private compactZone(zone: Zone): void {
    const views = this.zones[zone]
    const fresh: View[] = []
    for (let i = 0; i < views.length; ) {
      const first = views[i] as View
      let end = i + 1
      if (!isFree(first)) {
        this.account.hold(first.page)
        fresh.push({ ...first })
      } else {
        while (end < views.length && isFree(views[end] as View) && sameForm(views[end] as View, first)) end++
        const run = views.slice(i, end)
        const rows = run.reduce((n, v) => n + v.rows, 0)
        const index = tf.tidy(() => tf.tile(tf.expandDims(tf.range(0, rows, 1, 'int32'), 0), [this.heads, 1]))
        fresh.push(...this.copied(run, index as tf.Tensor2D, zone, end < views.length))
        index.dispose()
      }
      i = end
    }
    this.zones[zone] = fresh
    for (const v of views) this.letGo(v)
  }

  /** Rows `index` of some views of one zone in pages of their own; the last one is cut to its rows where others follow. */
  private copied(views: readonly View[], index: tf.Tensor2D, zone: Zone, followed: boolean): View[] {
    const [first] = views
    if (!first) return []
    const unit = this.unitOf(first.page)
    const whole =
      zone === 'sealed' ? this.sealedPageRows : zone === 'sink' ? Math.max(1, this.sinks) : this.windowPageRows
    const n = index.shape[1]
    const capacityAt = (at: number) => (followed ? Math.min(whole, Math.ceil((n - at) / unit) * unit) : whole)
    const pages = gatherPages(views, index, capacityAt, unit)
    return pages.map((page, i) => {
      const at = pages.slice(0, i).reduce((sum, p) => sum + p.capacity, 0)
      return { page: this.account.hold(page), from: 0, rows: Math.min(page.capacity, n - at), shift: first.shift }
    })
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

  /** Brings rows back from host memory. */
  toDevice(): void {
    for (const zone of ZONES)
      this.zones[zone] = this.zones[zone].map((v) => {
        if (!v.page.host) return v
        const { capacity, layout, sealed, rowWise, used, fitted } = v.page
        const tensors = uploads(v.page)
        const page = new Page({ tensors, capacity, layout, sealed, rowWise, used, fitted })
        const back = { ...v, page: this.account.hold(page) }
        this.letGo(v)
        return back
      })
    this.version++
  }

  /** Forgets the newest `count` rows of the exact window. */
  trim(count: number): void {
    const views = this.zones.window
    while (count > 0) {
      const last = views[views.length - 1]
      if (!last) throw new Error('fewer rows in the window than are to be forgotten')
      const n = Math.min(count, last.rows)
      const { page } = last
      if (!page.shared && last.from + last.rows === page.used) page.used -= n
      last.rows -= n
      count -= n
      if (last.rows === 0) {
        views.pop()
        this.letGo(last)
      }
    }
    this.version++
  }

  /** Takes over the rows of another store: full pages shared, appendable ones copied. */
  adopt(from: PartStore): void {
    // A page that has a hole is copied once for all of its views.
    const copies = new Map<Page, Page>()
    for (const v of from.views()) if (v.page.appendable && this.ends(v)) copies.set(v.page, copyPage(v.page))
    if (from.fitted) this.fitted = this.account.share(from.fitted)
    for (const zone of ZONES)
      for (const v of from.zones[zone]) {
        const copy = copies.get(v.page)
        this.zones[zone].push({ ...v, page: copy ? this.account.hold(copy) : this.account.share(v.page) })
      }
    const kept = from.kept.tensor
    if (kept) this.kept.replace(copyOf(kept) as tf.Tensor2D)
    this.version++
  }

  /** Takes back what the last prompt fitted. */
  restoreFit(fitted: Page): void {
    this.fitted = this.account.share(fitted)
  }

  /** Puts a restored view in its zone. */
  restore(zone: Zone, view: View): void {
    this.account.hold(view.page)
    this.zones[zone].push(view)
  }

  dispose(): void {
    for (const v of [...this.views()]) this.letGo(v)
    for (const zone of ZONES) this.zones[zone] = []
    if (this.fitted) this.account.letGo(this.fitted)
    this.fitted = null
    this.kept.replace(null)
  }
}

/** Whether rows of a view can be copied on their own. */
const isFree = (v: View): boolean => v.page.rowWise && v.page.host === null

const sameForm = (a: View, b: View): boolean => a.shift === b.shift && a.page.fitted === b.page.fitted
