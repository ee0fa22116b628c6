/** Drops rows of a lane, by index or by range, and gives back what they held. */
import * as tf from '@tensorflow/tfjs-core'
import type { RowRange } from '../contract'
import type { Lane } from './lane'
import { canGather, compact, dropRows, gatherExact, gatherZones } from './rows/gather'
import type { Zone } from './rows/zones'

/** Once this share of a lane's rows is dropped and still held, the rows that stay are copied together. */
const DEAD_SHARE = 1 / 24

/** Keeps rows `index` int32 `[heads or 1, n]`, ascending. It takes the index over, and reads it back where rows cannot all be copied at once. */
export async function keepRows(lane: Lane, index: tf.Tensor2D, n: number): Promise<void> {
  const heads = lane.shape.heads.length
  const { rows, keys, values, live } = lane
  const few = rows - n < rows * DEAD_SHARE
  if (keys.exact && values.exact && !keys.views.onHost && !live.marks && !few) {
    const each: tf.Tensor2D = index.shape[0] === heads ? index : tf.tile(index, [heads, 1])
    gatherState(lane, each, n)
    gatherExact(keys, each, n)
    gatherExact(values, each, n)
    tf.dispose(each === index ? [index] : [each, index])
    return
  }
  const kept = await index.data()
  live.marks = Array.from({ length: heads }, (_, h) => {
    const mask = new Int32Array(rows)
    const base = index.shape[0] === heads ? h * n : 0
    for (let i = 0; i < n; i++) mask[kept[base + i] ?? 0] = 1
    return mask
  })
  index.dispose()
  live.died = true
  reclaim(lane)
}

/** Keeps ranges of rows, the same for every head. With `renumber`, later rows move down to the slots that became free. */
export function keepRanges(lane: Lane, ranges: readonly RowRange[], renumber: boolean): void {
  const before = lane.live.marks
  const dropped = new Uint8Array(lane.rows).fill(1)
  for (const r of ranges) dropped.fill(0, r.start, r.end)
  const fresh = runsOf(before ? liveOf(dropped, before) : dropped)
  if (fresh.length === 0) return
  if (renumber)
    for (const { start, end } of [...fresh].reverse()) {
      lane.keys.views.renumber(start, end, (row) => before?.[0]?.[row] !== 0)
      lane.shift += end - start
    }
  lane.live.marks = lane.shape.heads.map((_, h) => {
    const marks = before?.[h]?.slice() ?? new Int32Array(dropped.length).fill(1)
    for (let row = 0; row < dropped.length; row++) if (dropped[row]) marks[row] = 0
    return marks
  })
  lane.live.died = true
  reclaim(lane)
}

/** Of rows that are to be dropped, those that are live in some head yet. */
function liveOf(dropped: Uint8Array, live: readonly Int32Array[]): Uint8Array {
  const found = new Uint8Array(dropped.length)
  for (const row of live) for (let r = 0; r < dropped.length; r++) if (dropped[r] && row[r] === 1) found[r] = 1
  return found
}

/** Frees what dropped rows hold. Rows that are dead in every head go at once, the others when there are enough of them to be worth a copy. */
export function reclaim(lane: Lane): void {
  const { live } = lane
  if (!live.marks || !live.died) return
  live.died = false
  for (const range of deadRanges(lane, live.marks).reverse()) {
    for (const part of lane.parts) dropRows(part, range.start, range.end)
    lane.positions.drop(range.start, range.end)
    lane.columns.drop(range.start, range.end)
    live.remove(range)
  }
  if (lane.liveRows === lane.rows) live.marks = null
  else if (lane.rows - lane.liveRows > lane.rows * DEAD_SHARE) gatherLive(lane, live.marks)
  for (const part of lane.parts) compact(part)
}

/**
 * Copies the live rows of every head together. Heads may have dropped different rows of a zone; the zone then holds as many rows
 * as the fullest head needs, and the others keep some dead ones.
 */
function gatherLive(lane: Lane, live: readonly Int32Array[]): void {
  if (!lane.parts.every((part) => canGather(part) && !part.kept.tensor)) return
  const { rows } = lane
  // Keys and values may end a zone at different rows: both keep their order of rows when each stretch between ends does.
  const bounds = [...new Set(lane.parts.flatMap((part) => part.views.zoneEnds))].sort((a, b) => a - b)
  const columns: number[][] = live.map(() => [])
  const marks: number[][] = live.map(() => [])
  const counts = [zeroCounts(), zeroCounts()] as const
  let from = 0
  for (const end of bounds) {
    const own = live.map((row) => rowsWhere(row, from, end, 1))
    const most = Math.max(...own.map((list) => list.length))
    for (const [h, list] of own.entries()) {
      const spare = rowsWhere(live[h] as Int32Array, from, end, 0).slice(0, most - list.length)
      const all = [...list, ...spare].sort((a, b) => a - b)
      columns[h]?.push(...all)
      marks[h]?.push(...all.map((row) => live[h]?.[row] ?? 0))
    }
    for (const [i, part] of lane.parts.entries())
      if (most > 0) (counts[i] as Record<Zone, number>)[part.views.zoneAt(from)] += most
    from = end
  }
  const n = columns[0]?.length ?? 0
  if (rows - n <= rows * DEAD_SHARE) return
  const index = tf.tensor2d(Int32Array.from(columns.flat()), [live.length, n], 'int32')
  gatherState(lane, index, n)
  gatherZones(lane.keys, index, counts[0])
  gatherZones(lane.values, index, counts[1])
  index.dispose()
  lane.live.marks = marks.every((row) => row.every((x) => x === 1)) ? null : marks.map((row) => Int32Array.from(row))
}

/** Keeps the positions and columns of rows `index` int32 `[heads, n]`. */
function gatherState({ columns, positions }: Lane, index: tf.Tensor2D, n: number): void {
  columns.gather(index, n)
  positions.gather(index, n)
}

/** The ranges of rows that are dead in every head, cut so that a block goes whole or not at all. */
function deadRanges({ rows, parts }: Lane, live: readonly Int32Array[]): RowRange[] {
  const dead = new Uint8Array(rows)
  dead.fill(1)
  for (const row of live) for (let r = 0; r < rows; r++) if (row[r] !== 0) dead[r] = 0
  // A block with one live row keeps all of its rows, in both parts. What one part keeps may touch a block of the other, so this is repeated.
  for (let changed = true; changed; ) {
    changed = false
    for (const part of parts)
      for (const { start, end } of part.blocks()) {
        const block = dead.subarray(start, end)
        if (!block.includes(1) || !block.includes(0)) continue
        block.fill(0)
        changed = true
      }
  }
  return runsOf(dead)
}

/** The longest ranges of ones. */
function runsOf(flags: Uint8Array): RowRange[] {
  const ranges: RowRange[] = []
  for (let r = 0; r < flags.length; r++) {
    if (!flags[r]) continue
    const start = r
    while (r < flags.length && flags[r]) r++
    ranges.push({ start, end: r })
  }
  return ranges
}

/** The numbers of the rows `from <= row < end` whose mark is `mark`. */
function rowsWhere(marks: Int32Array, from: number, end: number, mark: 0 | 1): number[] {
  const rows: number[] = []
  for (let row = from; row < end; row++) if (marks[row] === mark) rows.push(row)
  return rows
}

const zeroCounts = (): Record<Zone, number> => ({ sink: 0, sealed: 0, window: 0 })
