/** Brings rows into a part: exact rows are appended, and the oldest of the window are sealed. Their order stays the same. */
import { allocateRows, copyRows, writeRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { as3d, disposeAll, emptyLike } from '../../tensors'
import type { Codec } from '../codec'
import { type Exempt, exactTensor, Page, type View } from './page'
import type { Rows } from './rows'
import { listStored, mapStored, perUnit, type Stored } from './stored'
import type { Zone } from './zones'

/** Appends exact rows f32 `[heads, n, dim]`. The first `sinks` rows of the sequence go to the sink zone, the others to the window. */
export function appendRows(to: Rows, rows: tf.Tensor, n: number, shift: number): void {
  const { views } = to
  const begins = views.rowsIn('sealed') === 0 && views.rowsIn('window') === 0
  const toSinks = to.seals && begins ? Math.min(n, Math.max(0, to.form.sinks - views.rowsIn('sink'))) : 0
  if (toSinks > 0) write(to, 'sink', rows, 0, toSinks, shift)
  if (n > toSinks) write(to, 'window', rows, toSinks, n - toSinks, shift)
}

/** Replaces everything that is stored by rows f32 `[heads, n, dim]`, after a resampling. */
export function rewriteRows(to: Rows, rows: tf.Tensor): void {
  to.views.clear()
  write(to, 'window', rows, 0, rows.shape[1] ?? 0, 0)
}

function write(to: Rows, zone: Zone, rows: tf.Tensor, from: number, count: number, shift: number): void {
  while (count > 0) {
    const page = openExact(to, zone, shift)
    const n = Math.min(count, page.capacity - page.used)
    writeRows(exactTensor(page), to.form.store, page.used, rows as tf.Tensor3D, from, n)
    page.used += n
    to.views.grow(zone, n)
    from += n
    count -= n
  }
}

/**
 * Sees to it that new exact rows can follow the last view of a zone, and returns its page. If the last view has another position shift, a new
 * view begins behind it in the same page; if its page takes no more rows, a new view begins in a new page.
 */
function openExact(to: Rows, zone: Zone, shift: number): Page {
  const last = to.views.in(zone).at(-1)
  const page = last?.page
  if (last && page?.rowWise && page.host === null && !page.shared) {
    // Rows of the page behind the last view were dropped, so their places are free.
    page.used = last.from + last.rows
    if (page.used < page.capacity) {
      if (last.shift !== shift) to.views.add(zone, { page, from: page.used, rows: 0, shift })
      return page
    }
  }
  const fresh = densePage(to, to.pageRows[zone])
  to.views.add(zone, { page: fresh, from: 0, rows: 0, shift })
  return fresh
}

/** Makes a page of exact rows. `rows` is its tensor, of which `used` rows are written. */
export function densePage({ form, exactForm }: Rows, capacity: number, rows?: tf.Tensor, used = 0): Page {
  const { store, heads, dim } = form
  return new Page({
    stored: { block: { rows: rows ?? allocateRows(store, heads, capacity, dim) }, scale: null },
    capacity,
    form: exactForm,
    sealed: false,
    rowWise: true,
    used,
  })
}

/** How many rows the window says to seal now, and how many of them go into one page. */
export function dueRows({ form, seals, views }: Rows): { readonly count: number; readonly unit: number } {
  const { codec, window, dropsAlways } = form
  if (!codec || !seals) return { count: 0, unit: 1 }
  const { recent, block, drain } = window
  const spare = views.rowsIn('window') - recent
  if (spare < block) return { count: 0, unit: 1 }
  const whole = drain === 'all' ? codec.rowsPerGroup : block
  const count = Math.floor(spare / whole) * whole
  // A transform may look at its whole block, so blocks are as large as the window says. A quantizer alone looks at `rowsPerGroup` rows.
  if (!codec.byBlocks) return { count, unit: count }
  if (dropsAlways && !codec.parts.transform) return { count, unit: codec.rowsPerGroup }
  return { count, unit: drain === 'all' ? count : block }
}

/**
 * Replaces the oldest rows of the window by the block that they were encoded to, and takes over its tensors. Of a layer group the first part
 * makes the page, and the others are handed it.
 */
export function sealRows(to: Rows, count: number, block: Stored<tf.Tensor> | Page, exempt: Exempt | null): Page | null {
  const { codec } = to.form
  if (!codec) throw new Error('nothing seals here')
  const shift = to.views.in('window')[0]?.shift ?? 0
  let page: Page | null = null
  if (block instanceof Page) page = block
  else if (codec.byBlocks)
    page = new Page({
      stored: block,
      capacity: count,
      form: codec.form,
      sealed: true,
      rowWise: false,
      used: count,
      exempt,
      fitted: to.fitted,
    })
  else appendSealed(to, block, count, codec, shift)
  if (page) to.views.add('sealed', { page, from: 0, rows: count, shift })
  to.views.dropFront('window', count)
  return page
}

/** Copies sealed rows that can be gathered one by one into pages of a fixed size. Each sealing begins at a whole word of metadata. */
function appendSealed(to: Rows, block: Stored<tf.Tensor>, count: number, codec: Codec, shift: number): void {
  for (let from = 0; from < count; ) {
    const page = openSealed(to, block, codec, shift)
    const n = Math.min(count - from, page.capacity - page.used)
    mapStored(block, codec.form, (tensor, field, same) => {
      const per = perUnit(field)
      const rows = as3d(tensor)
      const target = as3d(same(page.device))
      copyRows(target, page.used / per, rows, from / per, Math.ceil(n / per))
      tf.dispose([rows, target])
    })
    page.used += Math.ceil(n / page.unit) * page.unit
    to.views.grow('sealed', n)
    from += n
  }
  disposeAll(listStored(block))
}

/**
 * Sees to it that sealed rows can follow the last sealed view: in that view, in a new view of its page where there is room, or in a new
 * page like `block`.
 */
function openSealed(to: Rows, block: Stored<tf.Tensor>, codec: Codec, shift: number): Page {
  const last: View | undefined = to.views.in('sealed').at(-1)
  const room = last?.page.appendable && !last.page.shared && last.page.fitted === to.fitted && to.ends(last)
  if (last && room && last.shift === shift && last.from + last.rows === last.page.used) return last.page
  const capacity = to.pageRows.sealed
  const page = room
    ? last.page
    : new Page({
        stored: mapStored(block, codec.form, (t, field) => emptyLike(t, capacity / perUnit(field))),
        capacity,
        form: codec.form,
        sealed: true,
        rowWise: true,
        used: 0,
        fitted: to.fitted,
      })
  to.views.add('sealed', { page, from: page.used, rows: 0, shift })
  return page
}

/** Takes over the reconstructions `[n, width]` of rows that were just sealed. */
export function keepReconstructions({ kept }: Rows, rows: tf.Tensor2D): void {
  const known = kept.tensor
  kept.replace(known ? (tf.concat([known, rows], 0) as tf.Tensor2D) : rows)
  if (known) rows.dispose()
}
