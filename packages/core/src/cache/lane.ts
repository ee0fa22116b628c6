/** A lane: KV heads that are stored together and hold equally many rows. A layer has one, or one per head when it is ragged. */
import { attentionMass, rope } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Lossless, Part, Resample, RowStore, Windows } from '../contract'
import { SerializedCacheError } from '../errors'
import type { StepRotation } from '../rope'
import { disposeAll } from '../tensors'
import type { Account } from './account'
import { attendLane } from './attend'
import type { Codec } from './codec'
import { Columns } from './columns'
import type { LaneRecord, Recorder } from './file/format'
import type { Reader } from './file/reader'
import { LiveRows } from './live'
import { Positions } from './positions'
import type { OwnRows, Reading } from './reading'
import type { Rotary } from './rotary'
import { checkReadable, readAll, readRange } from './rows/read'
import { Rows } from './rows/rows'
import { segmentsOf } from './rows/segments'
import { appendRows, rewriteRows } from './rows/write'
import type { StepPositions } from './step-state'

export interface LaneShape {
  /** The KV heads of the model in this lane, ascending and adjacent. */
  readonly heads: readonly number[]
  readonly group: number
  readonly keyDim: number
  readonly valueDim: number
  readonly attentionScale: number
  readonly store: RowStore
  readonly windows: Windows
  readonly keyCodec: Codec | null
  readonly valueCodec: Codec | null
  /** What codes the rows of each part when they leave the device. */
  readonly lossless: Readonly<Record<Part, Lossless | null>>
  /** On which side of RoPE keys are stored. With `pre` they are rotated by their positions when they are read. */
  readonly side: 'pre' | 'post'
  /** Whether some stage drops tokens at any time, and not only at the end of a prompt. */
  readonly dropsAlways: boolean
}

/** The rows that a step brings, before anything is done to them. */
export interface NewRows {
  /** Keys before RoPE. */
  readonly keys: tf.Tensor
  /** Keys after RoPE, at their original positions. */
  readonly rotated: tf.Tensor
  readonly values: tf.Tensor
  readonly n: number
}

/** What a lane needs from its cache to be read. */
export interface LaneContext {
  readonly rotation: StepRotation
  readonly positions: StepPositions
  readonly rotary: Rotary
  readonly prediction: (part: Part) => tf.Tensor2D | null
}

export class Lane {
  readonly keys: Rows
  readonly values: Rows
  readonly positions: Positions
  readonly live: LiveRows
  /** What a scorer remembers of every row. */
  readonly columns: Columns
  /** How far the next rows move down, because rows before them were dropped and positions are slots. */
  shift = 0

  constructor(
    readonly shape: LaneShape,
    account: Account,
    /** For a fork: the lane with whose positions, marks and columns this one begins. */
    like?: Lane,
  ) {
    const { windows, store, dropsAlways, keyDim, valueDim, keyCodec, valueCodec, lossless } = shape
    const heads = shape.heads.length
    const both = { heads, store, sinks: windows.sinks, dropsAlways }
    this.keys = new Rows(
      { ...both, dim: keyDim, window: windows.keys, codec: keyCodec, lossless: lossless.keys },
      account,
    )
    this.values = new Rows(
      { ...both, dim: valueDim, window: windows.values, codec: valueCodec, lossless: lossless.values },
      account,
    )
    this.positions = like ? like.positions.copy(account) : new Positions(heads, account)
    this.live = like ? like.live.copy() : new LiveRows()
    this.columns = like ? like.columns.copy(account) : new Columns(heads, account)
  }

  /** How many rows are stored, with dropped ones that are still held. */
  get rows(): number {
    return this.keys.count
  }
  /** How many rows of a head are live. */
  get liveRows(): number {
    return this.live.of(this.rows)
  }
  get parts(): readonly [keys: Rows, values: Rows] {
    return [this.keys, this.values]
  }
  get stateBytes(): number {
    return this.positions.bytes + this.columns.bytes
  }
  /** Whether stored keys are still to be rotated when they are read. */
  rotates(rotary: Rotary): boolean {
    return this.shape.side === 'pre' && rotary.rotates
  }

  /**
   * Attends with queries `[lane queryHeads, n, keyDim]` before RoPE to what is stored and to the step's own rows: `own` where they are not stored
   * yet, else the last `stored` rows.
   */
  attend(
    queries: tf.Tensor,
    own: NewRows | null,
    stored: number,
    context: LaneContext,
    limits: {
      readonly lists?: Reading['lists']
      readonly ranges?: Reading['ranges']
      readonly fetched?: Reading['fetched']
    } = {},
  ): tf.Tensor {
    const { rotation, rotary } = context
    const rotates = this.rotates(rotary)
    const { shift } = this
    const shifts = rotates ? [shift] : [...new Set([shift, ...this.keys.views.shifts])]
    // Dropping rows renumbers later ones: slot = position - shift. RoPE depends on distances alone, so instead of turning stored
    // keys to their slots the query is turned by the difference of its shift and theirs.
    const variants = shifts.map((s) => rotation.rotate(queries, rotates ? s : shift - s))
    const turned = own && rotates && shift > 0 ? rotation.rotate(own.keys, shift) : null
    const mine: OwnRows | null = own && { keys: turned ?? own.rotated, values: own.values, n: own.n }
    // Lists name live rows only.
    const live = limits.lists ? null : this.live.tensor(own?.n ?? 0)
    const positions = rotates ? this.rotaryPositions(own?.n ?? 0, context.positions) : null
    const output = attendLane(this, {
      variants,
      variantOf: (s) => (rotates ? 0 : shifts.indexOf(s)),
      own: mine,
      stored,
      live,
      rotation: positions && { ...rotary.upTo(Math.max(this.rows, this.positions.end - shift)), positions },
      prediction: context.prediction,
      ...(limits.lists ? { lists: limits.lists } : {}),
      ...(limits.ranges ? { ranges: limits.ranges } : {}),
      ...(limits.fetched ? { fetched: limits.fetched } : {}),
    })
    disposeAll([...variants, turned, live])
    if (positions) context.positions.release(positions)
    return output
  }

  /**
   * The position to which every stored key is rotated, int32 `[heads, rows + extra]`, or `[1, rows + extra]` while heads have the same: its original position, less the rows that were dropped
   * before it where positions are slots. The tensor goes back to `step`.
   */
  rotaryPositions(extra: number, step: StepPositions): tf.Tensor2D {
    const { views } = this.keys
    const still = views.shifts.every((s) => s === 0)
    const name = still ? this.positions.name : null
    return step.of(name && `${name} and ${extra}`, () => {
      const known = this.positions.tensor(extra, false)
      if (still) return known
      const shifts = new Int32Array(this.rows + extra)
      let at = 0
      for (const { rows, shift } of views.all()) {
        shifts.fill(shift, at, at + rows)
        at += rows
      }
      const moved = tf.tidy(() => tf.sub(known, tf.tensor2d(shifts, [1, shifts.length], 'int32')) as tf.Tensor2D)
      known.dispose()
      return moved
    })
  }

  /** Decodes stored keys, f32 `[heads, count, keyDim]`, after RoPE at their original positions. */
  rotatedKeys(
    { rotary, prediction }: Pick<LaneContext, 'rotary' | 'prediction'>,
    from = 0,
    count = this.rows,
  ): tf.Tensor3D {
    const rows = readRange(this.keys, from, count, prediction('keys'))
    if (!this.rotates(rotary) || count === 0) return rows
    const all = this.positions.tensor()
    const positions = tf.slice(all, [0, from], [-1, count])
    const rotated = rope(rows, rotary.upTo(this.positions.end), positions) as tf.Tensor3D
    tf.dispose([rows, all, positions])
    return rotated
  }

  /** How much attention the queries of the last rows (after RoPE) pay to every stored row: `[lane queryHeads, rows]`. */
  attentionOf(
    rotatedQueries: tf.Tensor,
    reduce: 'sum' | 'max',
    context: LaneContext,
    /** int32 `[heads, rows]`: 1 for rows that take part; default: all that are live. */
    among: tf.Tensor2D | null = null,
  ): tf.Tensor {
    const live = among ?? this.live.tensor(0)
    const plain = this.keys.fused && !this.rotates(context.rotary)
    const rows = plain ? null : this.rotatedKeys(context)
    const mass = attentionMass({
      queries: [rotatedQueries as tf.Tensor3D],
      keys: rows
        ? [{ layout: { kind: 'dense', store: 'f32' }, tensors: [rows], from: 0, rows: this.rows }]
        : segmentsOf(this.keys, 0, this.rows, () => 0, false),
      kvHeads: this.shape.heads.length,
      scale: this.shape.attentionScale,
      ...(live ? { live } : {}),
      causal: true,
      reduce,
    })
    disposeAll([rows, among ? null : live])
    return mass
  }

  /** Appends this step's rows at original positions `start ...`. */
  append(own: NewRows, start: number): void {
    const { n } = own
    appendRows(this.keys, this.shape.side === 'post' ? own.rotated : own.keys, n, this.shift)
    appendRows(this.values, own.values, n, 0)
    this.positions.append(start, n)
    this.live.append(n)
    this.columns.append(n)
  }

  /** Forgets the newest `count` rows, which nothing has looked at or changed since they were appended. */
  rollback(count: number): void {
    const { rows } = this
    for (const part of this.parts) part.views.trim(count)
    this.positions.drop(rows - count, rows)
    this.live.truncate(rows - count)
    this.columns.drop(rows - count, rows)
  }

  /** Replaces the rows of a full cache by fewer, which are numbered anew. `seen` tokens have come so far. */
  resample({ sinks, capacity, apply }: Resample, seen: number): void {
    for (const part of this.parts) {
      const rows = tf.tidy(() => {
        const all = readAll(part)
        const head = tf.slice(all, [0, 0, 0], [-1, sinks, -1])
        return tf.concat([head, apply(tf.slice(all, [0, sinks, 0], [-1, capacity - sinks, -1]))], 1)
      })
      rewriteRows(part, rows)
      rows.dispose()
    }
    this.positions.restart(this.rows)
    this.shift = seen - this.rows
  }

  copy(account: Account): Lane {
    const twin = new Lane(this.shape, account, this)
    twin.keys.adopt(this.keys)
    twin.values.adopt(this.values)
    twin.shift = this.shift
    return twin
  }

  record(to: Recorder): LaneRecord {
    return {
      keys: this.keys.record(to),
      values: this.values.record(to),
      ...this.positions.record(to),
      shift: this.shift,
      dead: this.live.record(),
      columns: this.columns.record(to),
    }
  }
  /** @throws SerializedCacheError */
  restore(record: LaneRecord, from: Reader): void {
    this.keys.restore(record.keys, from)
    this.values.restore(record.values, from)
    this.positions.restore(record, from)
    const { rows } = this
    if (this.values.count !== rows || this.positions.rows !== rows)
      throw new SerializedCacheError(
        `a layer holds ${rows} keys, ${this.values.count} values and ${this.positions.rows} positions.`,
      )
    this.columns.restore(record.columns, from, rows)
    this.live.restore(record.dead, this.shape.heads.length, rows)
    this.shift = record.shift
    for (const part of this.parts) checkReadable(part)
  }

  dispose(): void {
    for (const part of this.parts) part.dispose()
    this.positions.dispose()
    this.columns.dispose()
  }
}
