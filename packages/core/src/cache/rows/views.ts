/**
 * Says which rows of which pages a part consists of, in order: views in three zones. What is asked at every step (how many rows there are, in
 * which zone, with which position shifts, whether some lie in host memory) is counted when views change, and answered from the counts.
 */
import { UnsupportedStage } from '../../errors'
import type { Account } from '../account'
import type { PartRecord, Recorder } from '../file/format'
import type { View } from './page'
import { ZONES, type Zone } from './zones'

/** A piece of a view: `rows` rows from its row `skip` on. The first of them is row `at` of the part. */
export interface Piece {
  readonly view: View
  readonly at: number
  readonly skip: number
  readonly rows: number
}

export class Views {
  private readonly zones: Record<Zone, View[]> = { sink: [], sealed: [], window: [] }
  private readonly counts: Record<Zone, number> = { sink: 0, sealed: 0, window: 0 }
  /** How many views have a position shift. */
  private readonly shifted = new Map<number, number>()
  private hosted = 0
  /** Changes whenever rows go or move. What was rebuilt from rows of another version is stale then. */
  version = 0

  /** Views hold their pages in this account. */
  constructor(private readonly account: Account) {}

  get rows(): number {
    return this.counts.sink + this.counts.sealed + this.counts.window
  }
  rowsIn(zone: Zone): number {
    return this.counts[zone]
  }
  /** The row after the last of each zone, in order. */
  get zoneEnds(): readonly [sink: number, sealed: number, window: number] {
    const { sink, sealed } = this.counts
    return [sink, sink + sealed, this.rows]
  }
  /** The zone that row `row` lies in. */
  zoneAt(row: number): Zone {
    const [sink, sealed] = this.zoneEnds
    return row < sink ? 'sink' : row < sealed ? 'sealed' : 'window'
  }
  /** Whether some rows lie in host memory. */
  get onHost(): boolean {
    return this.hosted > 0
  }
  /** The distinct position shifts of its views. */
  get shifts(): readonly number[] {
    return [...this.shifted.keys()]
  }
  in(zone: Zone): readonly View[] {
    return this.zones[zone]
  }
  *all(): Generator<View> {
    for (const zone of ZONES) yield* this.zones[zone]
  }
  /** The pieces that cover rows `[from, from + count)`. */
  *cut(from: number, count: number): Generator<Piece> {
    const end = from + count
    let at = 0
    for (const zone of ZONES) {
      if (at >= end) return
      if (at + this.counts[zone] <= from) {
        at += this.counts[zone]
        continue
      }
      for (const view of this.zones[zone]) {
        if (at >= end) return
        const skip = Math.max(0, from - at)
        const rows = Math.min(view.rows, end - at) - skip
        if (rows > 0) yield { view, at: at + skip, skip, rows }
        at += view.rows
      }
    }
  }
  /** The view that row `row` lies in. */
  at(row: number): View | undefined {
    for (const { view } of this.cut(row, 1)) return view
    return undefined
  }

  /** Adds a view behind the others of its zone, and holds its page. */
  add(zone: Zone, view: View): void {
    this.account.hold(view.page)
    this.enter(zone, view)
    this.zones[zone].push(view)
  }
  /** Adds a view of a page that another cache made, and shares the page. */
  share(zone: Zone, view: View): void {
    this.account.share(view.page)
    this.enter(zone, view)
    this.zones[zone].push(view)
  }
  /** Lets the last view of a zone name `rows` more rows of its page. */
  grow(zone: Zone, rows: number): void {
    const views = this.zones[zone]
    const last = views.pop()
    if (!last) throw new Error(`the ${zone} zone has no view to grow`)
    views.push({ ...last, rows: last.rows + rows })
    this.counts[zone] += rows
  }
  /** Replaces all views of some zones. The pages of the new ones are held before those of the old ones are let go. */
  replace(next: Partial<Readonly<Record<Zone, readonly View[]>>>): void {
    const zones = ZONES.filter((zone) => next[zone])
    const before = zones.map((zone) => this.zones[zone])
    for (const zone of zones) {
      this.zones[zone] = []
      for (const view of next[zone] ?? []) this.add(zone, view)
    }
    for (const [i, zone] of zones.entries()) for (const view of before[i] ?? []) this.remove(zone, view)
    this.version++
  }

  /** Forgets the oldest `count` rows of a zone; later rows keep their places behind them. */
  dropFront(zone: Zone, count: number): void {
    const views = this.zones[zone]
    while (count > 0) {
      const first = views.shift()
      if (!first) return
      const n = Math.min(count, first.rows)
      count -= n
      if (n === first.rows) this.remove(zone, first)
      else {
        views.unshift({ ...first, from: first.from + n, rows: first.rows - n })
        this.counts[zone] -= n
      }
    }
  }
  /**
   * Forgets the newest `count` rows: those of the window, and where it holds fewer the last sinks. New rows take their places in pages that
   * nobody else holds.
   */
  trim(count: number): void {
    const fromWindow = Math.min(count, this.counts.window)
    this.trimZone('window', fromWindow)
    this.trimZone('sink', count - fromWindow)
    this.version++
  }
  private trimZone(zone: Zone, count: number): void {
    const views = this.zones[zone]
    while (count > 0) {
      const last = views.pop()
      if (!last) throw new Error(`fewer rows in the ${zone} zone than are to be forgotten`)
      const n = Math.min(count, last.rows)
      const { page } = last
      if (!page.shared && last.from + last.rows === page.used) page.used -= n
      count -= n
      if (n === last.rows) this.remove(zone, last)
      else {
        views.push({ ...last, rows: last.rows - n })
        this.counts[zone] -= n
      }
    }
  }
  /** Drops rows `[start, end)`. They must cover every block whole that they touch. */
  drop(start: number, end: number): void {
    this.splitAt(start)
    this.splitAt(end)
    let at = 0
    for (const zone of ZONES)
      this.zones[zone] = this.zones[zone].filter((v) => {
        const stays = at + v.rows <= start || at >= end
        at += v.rows
        if (!stays) this.remove(zone, v)
        return stays
      })
    this.version++
  }
  /** Makes row `row` the first of a view, unless it lies inside a block. */
  splitAt(row: number): void {
    let at = 0
    for (const zone of ZONES) {
      const views = this.zones[zone]
      for (const [i, v] of views.entries()) {
        const head = row - at
        at += v.rows
        if (head <= 0) return
        if (head >= v.rows || !v.page.rowWise) continue
        const [first, second] = [
          { ...v, rows: head },
          { ...v, from: v.from + head, rows: v.rows - head },
        ]
        views.splice(i, 1, first, second)
        this.account.hold(v.page)
        this.enter(zone, second)
        this.counts[zone] -= second.rows
        return
      }
    }
  }

  /**
   * Moves the positions of later rows down before rows `[start, end)` are dropped. `isLive` speaks of rows before the drop.
   * @throws UnsupportedStage when rows that are sealed together would need two positions
   */
  renumber(start: number, end: number, isLive: (row: number) => boolean): void {
    this.splitAt(end)
    let at = 0
    for (const zone of ZONES)
      for (const [i, v] of this.zones[zone].entries()) {
        const last = at + v.rows
        let keepsEarlier = false
        for (let row = at; row < start && !keepsEarlier; row++) keepsEarlier = isLive(row)
        if (at < start && last > end && keepsEarlier)
          throw new UnsupportedStage(
            'slot positions',
            `rows ${at} to ${last} are sealed together and would need two positions. Keep the sinks exact: window({ sinks: 4 }, ...).`,
          )
        if (at >= start || (last > end && !keepsEarlier)) {
          const moved = { ...v, shift: v.shift + end - start }
          this.zones[zone][i] = moved
          this.shiftBy(v, -1)
          this.shiftBy(moved, 1)
        }
        at = last
      }
  }

  clear(): void {
    this.replace({ sink: [], sealed: [], window: [] })
  }

  record(to: Recorder): PartRecord['views'] {
    return ZONES.flatMap((zone) =>
      this.zones[zone].map(({ page, from, rows, shift }) => ({ zone, page: to.page(page), from, rows, shift })),
    )
  }

  private enter(zone: Zone, view: View): void {
    this.counts[zone] += view.rows
    this.shiftBy(view, 1)
    if (view.page.host) this.hosted++
  }
  private remove(zone: Zone, view: View): void {
    this.counts[zone] -= view.rows
    this.shiftBy(view, -1)
    if (view.page.host) this.hosted--
    this.account.letGo(view.page)
  }
  private shiftBy({ shift }: View, by: 1 | -1): void {
    const left = (this.shifted.get(shift) ?? 0) + by
    if (left > 0) this.shifted.set(shift, left)
    else this.shifted.delete(shift)
  }
}
