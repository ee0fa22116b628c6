/**
 * The rows of one part (keys or values) of one lane: sinks, then sealed blocks, then the exact recent window.
 * Longer than most files here: every way rows come, move and go stands side by side, since each must keep their order.
 */

import { allocateRows, copyRows, gatherRows, type RowSegment, readRows, writeRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, RowRange, RowStore, Tensors, Window } from '../contract'
import { UnsupportedStage } from '../errors'
import { upload } from '../site'
import { type Codec, mergeHeads, type SealedBlock } from './codec'
import { type Account, as3d, bytesOf, copyPage, emptyLike, Held, mapTensors, Page, tensorOf, type View } from './page'

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
  /** What a transform fitted on this prompt; empty until then. Counted as perPrompt. */
  state: Tensors = {}
  /** Changes whenever rows go: reconstructions of another version are stale. */
  version = 0
  /** Reconstructions `[sealed rows, width]` of a predicted part that keeps them. */
  readonly kept: Held<tf.Tensor2D>

  constructor(
    readonly heads: number,
    readonly dim: number,
    readonly store: RowStore,
    private readonly sinks: number,
    private readonly window: Window,
    readonly codec: Codec | null,
    private readonly account: Account,
  ) {
    this.kept = new Held(account)
    this.windowPageRows = this.seals ? WINDOW_PAGE_ROWS : DENSE_PAGE_ROWS
  }

  /** Whether rows of this part are ever sealed. */
  get seals(): boolean {
    return this.codec !== null && this.window.recent !== Number.POSITIVE_INFINITY
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
  seal(count: number, block: SealedBlock | Page, exempt: Int32Array | null): Page | null {
    const codec = this.codec
    if (!codec) throw new Error('nothing seals here')
    const shift = this.zones.window[0]?.shift ?? 0
    let page: Page | null = null
    if (block instanceof Page) page = block
    else if (codec.byBlocks)
      page = new Page({
        tensors: block.tensors,
        capacity: count,
        layout: codec.layout,
        sealed: true,
        rowWise: false,
        used: count,
        exempt,
      })
    else this.appendSealed(block.tensors, count, codec, shift)
    if (page) {
      this.account.hold(page)
      this.zones.sealed.push({ page, from: 0, rows: count, shift })
    }
    this.dropFront(count)
    return page
  }

  /** Rows that gather one by one are copied into pages of a fixed size. */
  private appendSealed(block: Tensors, count: number, codec: Codec, shift: number): void {
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
        const page = new Page({
          tensors: mapTensors(block, (t) => emptyLike(t, SEALED_PAGE_ROWS)),
          capacity: SEALED_PAGE_ROWS,
          layout: codec.layout,
          sealed: true,
          rowWise: true,
          used: 0,
        })
        this.account.hold(page)
        last = { page, from: 0, rows: 0, shift }
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
              ? this.codec.main(
                  tensorsOf(view.page),
                  view.page.capacity,
                  view.from + skip,
                  rows,
                  predictionOf(at, rows),
                )
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
          codec.main(tensorsOf(view.page), view.page.capacity, view.from + skip, rows, null),
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
    return readRows(tensorsOf(v.page)['rows'] as tf.Tensor, this.store, this.dim, v.from + skip, rows) as tf.Tensor3D
  }

  private decode(v: View, skip: number, rows: number, prediction: tf.Tensor2D | null): tf.Tensor3D {
    const codec = this.codec
    if (!codec) throw new Error('a sealed page without a codec')
    const tensors = tensorsOf(v.page)
    const from = v.from + skip
    const main = codec.main(tensors, v.page.capacity, from, rows, prediction)
    const decoded = codec.rows(main, tensors, from, this.state)
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
   * Segments of rows `[from, from + count)` for the attention kernels. Sealed rows come as they are stored where the codec
   * is fused; `main: true` gives their latents as stored. `unrotated`: keys stored before RoPE.
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
    const tensors = tensorsOf(v.page)
    const base = { from, rows, query, ...(unrotated ? { unrotated } : {}) }
    const named = (...names: string[]) => names.map((n) => tensors[n]).filter((t): t is tf.Tensor => t !== undefined)
    if (layout.kind === 'dense') return { layout, tensors: named('rows'), ...base }
    if (layout.kind === 'affine') return { layout, tensors: named('words', 'metadata'), ...base }
    if (layout.kind === 'custom') throw new Error('a custom layout has no segment')
    const table = this.codec?.parts.quantizer?.table
    return { layout, tensors: named('codes', 'metadata'), ...(table ? { table } : {}), ...base }
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
  get stateBytes(): number {
    return Object.values(this.state).reduce((n, t) => n + bytesOf(t), 0)
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
      const page = await hostPage(inside)
      const moved: View = { page: this.account.hold(page), from: 0, rows: page.used, shift: first.shift }
      this.zones[zone] = views.flatMap((v) => (v === first ? [moved] : inside.includes(v) ? [] : [v]))
      for (const v of inside) this.letGo(v)
    }
    this.version++
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

  private fetchFrom(v: View, local: Int32Array, count: number): tf.Tensor3D {
    return tf.tidy(() => {
      const index = tf.tensor2d(local, [this.heads, count], 'int32')
      const tensors: Record<string, tf.Tensor> = {}
      for (const [name, t] of Object.entries(v.page.host ?? {})) tensors[name] = gatherHost(t, local, count)
      for (const [name, t] of Object.entries(v.page.tensors)) {
        const rows = as3d(t)
        tensors[name] = tf.reshape(gatherRows([rows], [rows.shape[1]], index, count), [
          this.heads,
          count,
          ...t.shape.slice(2),
        ])
      }
      if (!v.page.sealed) return readRows(tensors['rows'] as tf.Tensor, this.store, this.dim, 0, count) as tf.Tensor3D
      if (!this.codec) throw new Error('a sealed page without a codec')
      return this.codec.rows(this.codec.main(tensors, count, 0, count, null), tensors, 0, this.state)
    })
  }

  get hostBytes(): number {
    return [...new Set([...this.views()].map((v) => v.page))].reduce((n, page) => n + page.hostBytes, 0)
  }

  /** Takes over the rows of another store: full pages shared, appendable ones copied. `pages`: those this cache has taken over already. */
  adopt(from: PartStore): void {
    for (const zone of ZONES)
      for (const v of from.zones[zone]) {
        const copy = v.page.appendable && v.from + v.rows === v.page.used
        const page = copy ? copyPage(v.page) : this.account.has(v.page) ? v.page : v.page.retain()
        this.zones[zone].push({ ...v, page: this.account.hold(page) })
      }
    if (Object.keys(from.state).length > 0) this.fit(mapTensors(from.state, copyTensor))
    const kept = from.kept.tensor
    if (kept) this.kept.replace(copyTensor(kept) as tf.Tensor2D)
    this.version++
  }

  /** Puts a restored view in its zone. */
  restore(zone: Zone, view: View): void {
    this.account.hold(view.page)
    this.zones[zone].push(view)
  }

  pages(): ReadonlySet<Page> {
    return new Set([...this.views()].map((v) => v.page))
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

const slicePrediction = (prediction: tf.Tensor2D | null, from: number, rows: number): tf.Tensor2D | null =>
  prediction && (from === 0 && rows === prediction.shape[0] ? prediction : tf.slice(prediction, [from, 0], [rows, -1]))

/** The tensors of a page; of a host page uploads, which the tidy around frees. */
const tensorsOf = (page: Page): Tensors =>
  page.host ? Object.fromEntries(Object.entries(page.host).map(([name, t]) => [name, upload(t)])) : page.tensors

/** A copy with storage of its own. */
const copyTensor = (t: tf.Tensor): tf.Tensor =>
  tf.tidy(() => tf.reshape(tf.concat([tf.reshape(t, [-1]), tf.zeros([0], t.dtype)]), t.shape))

/** The rows of some views in one page of host memory. */
async function hostPage(views: readonly View[]): Promise<Page> {
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

function gatherHost({ shape, values }: HostTensor, local: Int32Array, count: number): tf.Tensor {
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

const concatRows = (pieces: tf.Tensor3D[]): tf.Tensor3D => {
  const [only] = pieces
  return pieces.length === 1 && only ? only : tf.concat(pieces, 1)
}
