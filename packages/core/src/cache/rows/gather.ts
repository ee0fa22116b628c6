/** Drops rows of a part: whole ranges by changing views, single rows by copying what stays. */
import { gatherRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { copyToPages } from './copy-pages'
import { exactTensor, isFree, type Page, sameForm, type View } from './page'
import type { Rows } from './rows'
import { densePage } from './write'
import { ZONES, type Zone } from './zones'

/** Once this share of a part's rows in use lies idle in its pages, the rows are copied into full pages. */
const IDLE_SHARE = 1 / 24

/** Drops rows `[start, end)`. They must cover every block whole that they touch. */
export function dropRows(of: Rows, start: number, end: number): void {
  dropKept(of, start, end)
  of.views.drop(start, end)
}

function dropKept({ kept: held, views }: Rows, start: number, end: number): void {
  const kept = held.tensor
  if (!kept) return
  const sinks = views.rowsIn('sink')
  const [n] = kept.shape
  const [a, b] = [Math.min(Math.max(start - sinks, 0), n), Math.min(Math.max(end - sinks, 0), n)]
  if (a < b)
    held.replace(
      tf.tidy(() =>
        tf.concat([tf.slice(kept, [0, 0], [a, -1]), tf.slice(kept, [b, 0], [n - b, -1])], 0),
      ) as tf.Tensor2D,
    )
}

/** Keeps rows `index` int32 `[heads, n]` (ascending), where nothing is sealed. The first of them become the sinks. */
export function gatherExact(of: Rows, index: tf.Tensor, n: number): void {
  const old = [...of.views.all()]
  const sinks = of.seals ? Math.min(of.form.sinks, n) : 0
  of.views.replace({
    sink: gathered(of, old, index, 0, sinks, of.pageRows.sink),
    sealed: [],
    window: gathered(of, old, index, sinks, n, of.pageRows.window),
  })
}

/** Copies rows `index[:, first .. end]` of some views into pages of their own. */
function gathered(
  of: Rows,
  from: readonly View[],
  index: tf.Tensor,
  first: number,
  end: number,
  capacity: number,
): View[] {
  const fresh: View[] = []
  for (let at = first; at < end; at += capacity) {
    const count = Math.min(capacity, end - at)
    const part = tf.slice(index as tf.Tensor2D, [0, at], [-1, count])
    const rows = gatherRows(
      from.map((v) => exactTensor(v.page)),
      from.map((v) => v.rows),
      part,
      capacity,
      from.map((v) => v.from),
    )
    part.dispose()
    fresh.push({ page: densePage(of, capacity, rows, count), from: 0, rows: count, shift: 0 })
  }
  return fresh
}

/** Whether every row can be copied on its own: no blocks, nothing in host memory, one position shift and one fit in each zone. */
export const canGather = ({ views }: Rows): boolean =>
  ZONES.every((zone) => {
    const [first] = views.in(zone)
    return views.in(zone).every((v) => isFree(v) && first && sameForm(v, first))
  })

/**
 * Keeps rows `index` int32 `[heads, n]` where `canGather` says so, zone by zone: the first `counts.sink` columns name rows of the sink
 * zone, and so on. Row numbers are those of this part.
 */
export function gatherZones(of: Rows, index: tf.Tensor2D, counts: Readonly<Record<Zone, number>>): void {
  let [row, column] = [0, 0]
  for (const zone of ZONES) {
    const rows = of.views.rowsIn(zone)
    const local = tf.tidy(() => tf.sub(tf.slice(index, [0, column], [-1, counts[zone]]), tf.scalar(row, 'int32')))
    of.views.replace({
      [zone]: counts[zone] > 0 ? copied(of, of.views.in(zone), local as tf.Tensor2D, zone, false) : [],
    })
    local.dispose()
    row += rows
    column += counts[zone]
  }
}

/** Copies rows into full pages where too much of the pages lies idle: the rows before and after them were dropped. */
export function compact(of: Rows): void {
  let inUse = 0
  for (const { rows, page } of of.views.all()) inUse += (rows * page.bytes) / page.capacity
  const idle = ZONES.map((zone) => idleIn(of.views.in(zone)))
  if (idle.reduce((a, b) => a + b, 0) <= inUse * IDLE_SHARE) return
  for (const [i, zone] of ZONES.entries()) if ((idle[i] ?? 0) > 0) compactZone(of, zone)
}

/** How many bytes of a zone's pages hold no row in use and never will. Blocks are left out, and so is the free end of the last page. */
function idleIn(all: readonly View[]): number {
  const views = all.filter(isFree)
  const inUse = new Map<Page, number>()
  for (const v of views) inUse.set(v.page, (inUse.get(v.page) ?? 0) + v.rows)
  const free = (page: Page, rows: number) => ((page.capacity - rows) * page.bytes) / page.capacity
  const tail = views.at(-1)?.page
  return [...inUse].reduce((sum, [page, rows]) => sum + free(page, rows), tail ? -free(tail, tail.used) : 0)
}

/** Copies each run of rows of one form. Blocks stay as they are. */
function compactZone(of: Rows, zone: Zone): void {
  const views = of.views.in(zone)
  const fresh: View[] = []
  for (let i = 0; i < views.length; ) {
    const first = views[i] as View
    let end = i + 1
    if (!isFree(first)) fresh.push(first)
    else {
      while (end < views.length && isFree(views[end] as View) && sameForm(views[end] as View, first)) end++
      const run = views.slice(i, end)
      const rows = run.reduce((n, v) => n + v.rows, 0)
      const index = tf.tidy(() => tf.tile(tf.expandDims(tf.range(0, rows, 1, 'int32'), 0), [of.form.heads, 1]))
      fresh.push(...copied(of, run, index as tf.Tensor2D, zone, end < views.length))
      index.dispose()
    }
    i = end
  }
  of.views.replace({ [zone]: fresh })
}

/** Copies rows `index` of some views of one zone into pages of their own. The last page is cut to its rows where other rows follow. */
function copied(of: Rows, views: readonly View[], index: tf.Tensor2D, zone: Zone, followed: boolean): View[] {
  const [first] = views
  if (!first) return []
  const { unit } = first.page
  const whole = of.pageRows[zone]
  const n = index.shape[1]
  const capacityAt = (at: number) => (followed ? Math.min(whole, Math.ceil((n - at) / unit) * unit) : whole)
  let at = 0
  return copyToPages(views, index, capacityAt).map((page) => {
    const rows = Math.min(page.capacity, n - at)
    at += page.capacity
    return { page, from: 0, rows, shift: first.shift }
  })
}
