/** A lane: KV heads that are stored together and hold equally many rows. One per layer, or one per head when ragged. */

import { attentionMass, gatherRows, rope } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Part, Resample, RowRange, RowStore, Windows } from '../contract'
import type { StepRotation } from '../rope'
import { attendLane, type OwnRows, type Reading } from './attend'
import type { Codec } from './codec'
import { type Account, Held } from './page'
import { PartStore } from './part-store'
import { copyOf, Positions } from './positions'
import type { Rotary } from './rotary'
import type { Zone } from './stored-rows'

/** The share of a lane's rows that may be dropped and still held before what stays is copied. */
const DEAD_SHARE = 1 / 24

export interface LaneShape {
  /** KV heads of the model in this lane, ascending and adjacent. */
  readonly heads: readonly number[]
  readonly group: number
  readonly keyDim: number
  readonly valueDim: number
  readonly attentionScale: number
  readonly store: RowStore
  readonly windows: Windows
  readonly keyCodec: Codec | null
  readonly valueCodec: Codec | null
  /** `pre`: keys are stored before RoPE and rotated by their positions when read. */
  readonly side: 'pre' | 'post'
  /** Some stage drops tokens at any time, not only at the end of a prompt. */
  readonly dropsAlways: boolean
}

/** This step's rows before anything was done to them. */
export interface NewRows {
  /** Before RoPE. */
  readonly keys: tf.Tensor
  /** After RoPE, at their original positions. */
  readonly rotated: tf.Tensor
  readonly values: tf.Tensor
  readonly n: number
}

/** What a lane needs from its cache to be read. */
export interface LaneContext {
  readonly rotation: StepRotation
  readonly rotary: Rotary
  readonly prediction: (part: Part) => tf.Tensor2D | null
}

export class Lane {
  readonly keys: PartStore
  readonly values: PartStore
  positions: Positions
  /** Positions taken away so far from rows that come next (slot positions). */
  shift = 0
  private marks: Int32Array[] | null = null
  private liveCount = 0
  /** Whether a row died since the last `reclaim`. */
  private died = false
  /** Per-token state of a scorer, f32 `[heads, rows]`. */
  private readonly columnsHeld = new Map<string, Held<tf.Tensor2D>>()

  constructor(
    readonly shape: LaneShape,
    private readonly account: Account,
  ) {
    const n = shape.heads.length
    const { windows, store, dropsAlways: drops } = shape
    this.keys = new PartStore(n, shape.keyDim, store, windows.sinks, windows.keys, shape.keyCodec, drops, account)
    this.values = new PartStore(
      n,
      shape.valueDim,
      store,
      windows.sinks,
      windows.values,
      shape.valueCodec,
      drops,
      account,
    )
    this.positions = new Positions(n, account)
  }

  /** Rows stored, dropped ones that a block still holds included. */
  get rows(): number {
    return this.keys.rows
  }
  /** Rows per head that attention sees. */
  get liveRows(): number {
    return this.marks ? this.liveCount : this.rows
  }
  /** 1 = live, per head and row; null while every stored row is live. Every head has as many live rows. */
  get live(): readonly Int32Array[] | null {
    return this.marks
  }
  set live(marks: readonly Int32Array[] | null) {
    this.marks = marks && [...marks]
    this.liveCount = marks?.[0]?.reduce((n, x) => n + x, 0) ?? 0
  }

  /**
   * Queries `[lane queryHeads, n, keyDim]` before RoPE over what is stored and, if given, this step's own rows;
   * `stored`: the last so many rows are the queries' own.
   */
  attend(
    queries: tf.Tensor,
    own: NewRows | null,
    stored: number,
    context: LaneContext,
    limits: {
      readonly live?: tf.Tensor
      readonly ranges?: Reading['ranges']
      readonly fetched?: Reading['fetched']
    } = {},
  ): tf.Tensor {
    const { rotation } = context
    const rotates = this.rotates(context.rotary)
    const shifts = rotates ? [this.shift] : [...new Set([this.shift, ...[...this.keys.views()].map((v) => v.shift)])]
    // Dropping rows renumbers later ones: slot = position - shift. RoPE depends on distances alone, so instead of turning stored
    // keys to their slots the query is turned by the difference of its shift and theirs.
    const variants = shifts.map((s) => rotation.rotate(queries, rotates ? s : this.shift - s))
    const mine: OwnRows | null = own && {
      keys: rotates && this.shift > 0 ? rotation.rotate(own.keys, this.shift) : own.rotated,
      values: own.values,
      n: own.n,
    }
    const positions = rotates ? this.rotaryPositions(own?.n ?? 0) : null
    const live = limits.live ?? this.liveMask(own?.n ?? 0)
    const output = attendLane(this, {
      variants,
      variantOf: (shift) => (rotates ? 0 : shifts.indexOf(shift)),
      own: mine,
      stored,
      live,
      rotation: positions && { ...context.rotary.upTo(this.positions.end - this.shift), positions },
      prediction: context.prediction,
      ...(limits.ranges ? { ranges: limits.ranges } : {}),
      ...(limits.fetched ? { fetched: limits.fetched } : {}),
    })
    const made = [positions, live === limits.live ? null : live, mine?.keys === own?.rotated ? null : mine?.keys]
    tf.dispose([...variants, ...made.filter((t) => t != null)])
    return output
  }

  /** Whether stored keys are still to be rotated when they are read. */
  rotates(rotary: Rotary): boolean {
    return this.shape.side === 'pre' && rotary.rotates
  }

  /** Where every stored key is rotated to: original positions, moved down by what was dropped before them; int32 `[heads, rows + extra]`. */
  rotaryPositions(extra: number): tf.Tensor2D {
    const shifts = [...this.keys.views()].map((v) => ({ rows: v.rows, shift: v.shift }))
    const known = this.positions.tensor()
    if (extra === 0 && shifts.every((v) => v.shift === 0)) return known
    const moved = new Int32Array(this.rows + extra)
    let at = 0
    for (const { rows, shift } of shifts) {
      moved.fill(shift, at, at + rows)
      at += rows
    }
    return tf.tidy(() => {
      const all = tf.concat([known, tf.zeros([known.shape[0], extra], 'int32')], 1)
      const result = tf.sub(all, tf.tensor2d(moved, [1, this.rows + extra], 'int32')) as tf.Tensor2D
      known.dispose()
      return result
    })
  }

  /** Stored keys after RoPE at their original positions, f32 `[heads, count, keyDim]`. */
  rotatedKeys(
    { rotary, prediction }: Pick<LaneContext, 'rotary' | 'prediction'>,
    from = 0,
    count = this.rows,
  ): tf.Tensor3D {
    const rows = this.keys.readRange(from, count, prediction('keys'))
    if (!this.rotates(rotary) || count === 0) return rows
    const all = this.positions.tensor()
    const positions = tf.slice(all, [0, from], [-1, count])
    const rotated = rope(rows, rotary.upTo(this.positions.end), positions) as tf.Tensor3D
    tf.dispose([rows, all, positions])
    return rotated
  }

  /** Attention of the last n rows' queries (after RoPE) to every stored row: `[lane queryHeads, rows]`. */
  attentionOf(rotatedQueries: tf.Tensor, reduce: 'sum' | 'max', context: LaneContext): tf.Tensor {
    const live = this.liveMask(0)
    const plain = this.keys.fused && !this.rotates(context.rotary)
    const rows = plain ? null : this.rotatedKeys(context)
    const mass = attentionMass({
      queries: [rotatedQueries as tf.Tensor3D],
      keys: rows
        ? [{ layout: { kind: 'dense', store: 'f32' }, tensors: [rows], from: 0, rows: this.rows }]
        : this.keys.segments(0, this.rows, () => 0, false),
      kvHeads: this.shape.heads.length,
      scale: this.shape.attentionScale,
      ...(live ? { live: live as tf.Tensor2D } : {}),
      causal: true,
      reduce,
    })
    tf.dispose([rows, live].filter((t) => t !== null))
    return mass
  }

  /** Appends this step's rows at original positions `start ...`. */
  append(own: NewRows, start: number): void {
    const { n } = own
    this.keys.append(this.shape.side === 'post' ? own.rotated : own.keys, n, this.shift)
    this.values.append(own.values, n, 0)
    this.positions.append(start, n)
    this.live = this.live?.map((row) => extended(row, n)) ?? null
    for (const [name, column] of this.columns)
      this.setColumn(
        name,
        tf.tidy(() => tf.concat([column, tf.zeros([column.shape[0], n])], 1)),
      )
  }

  /** Forgets the newest `count` rows, which nothing has looked at or changed since they were appended. */
  rollback(count: number): void {
    const { rows } = this
    this.keys.trim(count)
    this.values.trim(count)
    this.positions.drop(rows - count, rows)
    this.live = this.live?.map((row) => row.slice(0, rows - count)) ?? null
    for (const [name, column] of this.columns) this.setColumn(name, dropColumns(column, rows - count, rows))
  }

  /** Slots of a full cache become fewer (a rewritable exact zone); the rows are numbered anew. `seen`: tokens so far. */
  resample({ sinks, capacity, apply }: Resample, seen: number): void {
    for (const part of [this.keys, this.values]) {
      const rows = tf.tidy(() => {
        const all = part.read()
        const head = tf.slice(all, [0, 0, 0], [-1, sinks, -1])
        return tf.concat([head, apply(tf.slice(all, [0, sinks, 0], [-1, capacity - sinks, -1]))], 1)
      })
      part.rewrite(rows)
      rows.dispose()
    }
    this.positions.restart(this.keys.rows)
    this.shift = seen - this.keys.rows
  }

  /** Makes sure a scorer's column exists, zeros for rows that are there already. */
  ensureColumn(name: string): tf.Tensor2D {
    const known = this.columns.get(name)
    if (known) return known
    this.setColumn(name, tf.zeros([this.shape.heads.length, this.rows]))
    return this.columns.get(name) as tf.Tensor2D
  }
  setColumn(name: string, next: tf.Tensor2D): void {
    const held = this.columnsHeld.get(name) ?? new Held<tf.Tensor2D>(this.account)
    this.columnsHeld.set(name, held)
    held.replace(next)
  }
  /** The columns as they are now, borrowed. */
  get columns(): ReadonlyMap<string, tf.Tensor2D> {
    return new Map([...this.columnsHeld].flatMap(([name, { tensor }]) => (tensor ? [[name, tensor] as const] : [])))
  }

  /** int32 `[heads, rows + extra]`, the caller's; null while every row is live. */
  liveMask(extra: number): tf.Tensor2D | null {
    if (!this.live) return null
    const rows = this.rows + extra
    const flat = new Int32Array(this.live.length * rows).fill(1)
    for (const [h, row] of this.live.entries()) flat.set(row, h * rows)
    return tf.tensor2d(flat, [this.live.length, rows], 'int32')
  }

  /** Keeps rows `index` int32 `[heads or 1, n]`, ascending. Takes over the index. */
  async keepRows(index: tf.Tensor2D, n: number): Promise<void> {
    const heads = this.shape.heads.length
    const { rows } = this
    const few = rows - n < rows * DEAD_SHARE
    if (this.keys.exact && this.values.exact && !this.keys.onHost && !this.live && !few) {
      const each = index.shape[0] === heads ? index : (tf.tile(index, [heads, 1]) as tf.Tensor2D)
      this.gatherState(each, n)
      this.keys.gather(each, n)
      this.values.gather(each, n)
      tf.dispose(each === index ? [index] : [each, index])
      return
    }
    const kept = await index.data()
    this.live = Array.from({ length: heads }, (_, h) => {
      const mask = new Int32Array(rows)
      const base = index.shape[0] === heads ? h * n : 0
      for (let i = 0; i < n; i++) mask[kept[base + i] ?? 0] = 1
      return mask
    })
    index.dispose()
    this.died = true
    this.reclaim()
  }

  /** Keeps row ranges, the same for every head. `renumber`: later rows move down (slot positions). */
  keepRanges(ranges: readonly RowRange[], renumber: boolean): void {
    const before = this.live
    const dropped = new Uint8Array(this.rows).fill(1)
    for (const r of ranges) dropped.fill(0, r.start, r.end)
    const isNew = dropped.map((x, i) => (x && (!before || before.some((row) => row[i] === 1)) ? 1 : 0))
    const fresh = runsOf(isNew)
    if (fresh.length === 0) return
    if (renumber)
      for (const { start, end } of [...fresh].reverse()) {
        this.keys.renumber(start, end, (row) => before?.[0]?.[row] !== 0)
        this.shift += end - start
      }
    this.live = this.shape.heads.map((_, h) => Int32Array.from(dropped, (x, i) => (x ? 0 : (before?.[h]?.[i] ?? 1))))
    this.died = true
    this.reclaim()
  }

  /** Frees what dropped rows hold: rows that are dead for every head at once, the others once they are worth a copy. */
  reclaim(): void {
    if (!this.live || !this.died) return
    this.died = false
    for (const { start, end } of this.deadRanges(this.live).reverse()) {
      this.keys.drop(start, end)
      this.values.drop(start, end)
      this.positions.drop(start, end)
      for (const [name, column] of this.columns) this.setColumn(name, dropColumns(column, start, end))
      this.live = this.live.map((row) => without(row, start, end))
    }
    if (this.live.every((row) => row.every((x) => x === 1))) this.live = null
    else if (this.rows - this.liveRows > this.rows * DEAD_SHARE) this.gatherLive(this.live)
    this.keys.compact()
    this.values.compact()
  }

  /**
   * Copies the live rows of every head together. Heads may have dropped different rows of a zone; the zone then holds as many rows
   * as the fullest head needs, and the others keep some dead ones.
   */
  private gatherLive(live: readonly Int32Array[]): void {
    const parts = [this.keys, this.values]
    if (!parts.every((part) => part.gathers && !part.kept.tensor)) return
    const { rows } = this
    // Keys and values may end a zone at different rows: both keep their order of rows when each stretch between ends does.
    const bounds = [...new Set(parts.flatMap((part) => part.zoneEnds))].sort((a, b) => a - b)
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
      for (const [i, part] of parts.entries())
        if (most > 0) (counts[i] as Record<Zone, number>)[part.zoneAt(from)] += most
      from = end
    }
    const n = columns[0]?.length ?? 0
    if (rows - n <= rows * DEAD_SHARE) return
    const index = tf.tensor2d(Int32Array.from(columns.flat()), [live.length, n], 'int32')
    this.gatherState(index, n)
    this.keys.gatherZones(index, counts[0])
    this.values.gatherZones(index, counts[1])
    index.dispose()
    this.live = marks.every((row) => row.every((x) => x === 1)) ? null : marks.map((row) => Int32Array.from(row))
  }

  /** Positions and columns of rows `index` int32 `[heads, n]`. */
  private gatherState(index: tf.Tensor2D, n: number): void {
    for (const [name, column] of this.columns) this.setColumn(name, gatherColumn(column, index, n))
    this.positions.gather(index, n)
  }

  /** Maximal ranges dead for all heads, cut so that blocks go whole or not at all. */
  private deadRanges(live: readonly Int32Array[]): RowRange[] {
    const rows = this.rows
    const dead = new Uint8Array(rows)
    for (let r = 0; r < rows; r++) dead[r] = live.every((row) => row[r] === 0) ? 1 : 0
    // A block with one live row keeps all its rows, in both parts; repeat until neither part objects.
    for (let changed = true; changed; ) {
      changed = false
      for (const part of [this.keys, this.values])
        for (const { start, end } of part.blocks()) {
          const all = dead.subarray(start, end).every((x) => x === 1)
          const any = dead.subarray(start, end).some((x) => x === 1)
          if (any && !all) {
            dead.fill(0, start, end)
            changed = true
          }
        }
    }
    return runsOf(dead)
  }

  get stateBytes(): number {
    return [...this.columnsHeld.values()].reduce((n, held) => n + held.bytes, this.positions.bytes)
  }

  copy(account: Account): Lane {
    const twin = new Lane(this.shape, account)
    twin.keys.adopt(this.keys)
    twin.values.adopt(this.values)
    twin.positions = this.positions.copy(account)
    twin.shift = this.shift
    twin.live = this.live?.map((row) => row.slice()) ?? null
    twin.died = this.died
    for (const [name, column] of this.columns) twin.setColumn(name, copyOf(column))
    return twin
  }

  dispose(): void {
    this.keys.dispose()
    this.values.dispose()
    this.positions.dispose()
    for (const held of this.columnsHeld.values()) held.replace(null)
    this.columnsHeld.clear()
  }
}

/** Maximal ranges of ones. */
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

/** Row numbers `from <= row < end` whose mark is `mark`. */
function rowsWhere(marks: Int32Array, from: number, end: number, mark: 0 | 1): number[] {
  const rows: number[] = []
  for (let row = from; row < end; row++) if (marks[row] === mark) rows.push(row)
  return rows
}

const zeroCounts = (): Record<Zone, number> => ({ sink: 0, sealed: 0, window: 0 })

/** A live mask with `n` live rows more. */
function extended(row: Int32Array, n: number): Int32Array {
  const longer = new Int32Array(row.length + n).fill(1)
  longer.set(row)
  return longer
}

function without(row: Int32Array, start: number, end: number): Int32Array {
  const shorter = new Int32Array(row.length - (end - start))
  shorter.set(row.subarray(0, start))
  shorter.set(row.subarray(end), start)
  return shorter
}

const gatherColumn = (column: tf.Tensor2D, index: tf.Tensor2D, n: number): tf.Tensor2D =>
  tf.tidy(() => {
    const [heads, rows] = column.shape
    return tf.reshape(gatherRows([tf.reshape(column, [heads, rows, 1])], [rows], index, n), [heads, n])
  })

const dropColumns = (column: tf.Tensor2D, start: number, end: number): tf.Tensor2D =>
  tf.tidy(() =>
    tf.concat([tf.slice(column, [0, 0], [-1, start]), tf.slice(column, [0, end], [-1, column.shape[1] - end])], 1),
  )
