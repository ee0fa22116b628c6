/** Runs the recall of a lane: builds the index over its keys in blocks, and attends to the rows that it selects. */
import * as tf from '@tensorflow/tfjs-core'
import type { Phase, Recall, Tensors } from '../contract'
import { bytesOf, copyOf, mapTensors } from '../tensors'
import type { Account } from './account'
import type { IndexRecord, Recorder } from './file/format'
import type { Reader } from './file/reader'
import type { Lane, LaneContext, NewRows } from './lane'
import { fetchRows, toHost } from './rows/host'

/** What one query head of every KV head reads: `count` selected rows each, `[heads, count]`, and the rows that are always read. */
interface Selection {
  readonly lane: Lane
  /** The queries `[heads, 1, keyDim]`, before RoPE. */
  readonly queries: tf.Tensor
  readonly own: NewRows | null
  readonly context: LaneContext
  readonly rows: Int32Array
  readonly count: number
  readonly indexedEnd: number
  /** On the device tier: a mask `[heads, rows + own.n]` of the rows that are read whatever is selected. */
  readonly always: Int32Array
  /** On the host tier, for keys before RoPE: the position to which every stored row is rotated, `[heads, rows]`. */
  readonly positions: Int32Array | null
}

export class RecallIndex {
  readonly blocks: Tensors[] = []
  readonly sizes: number[] = []
  private rows = 0

  constructor(
    readonly does: Recall,
    private readonly account: Account,
  ) {}

  /** How many rows are indexed. They follow the sinks. */
  get indexed(): number {
    return this.rows
  }
  get bytes(): number {
    return this.blocks.flatMap((b) => Object.values(b)).reduce((n, t) => n + bytesOf(t), 0)
  }

  /**
   * Indexes a prompt at its end, and later rows whenever `every` of them wait. On the host tier indexed rows leave the device. @returns
   * whether anything was indexed
   */
  async extend(lane: Lane, phase: Phase, context: LaneContext): Promise<boolean> {
    for (let extended = false; ; extended = true) {
      const waiting = Math.min(lane.keys.settled, lane.values.settled) - this.does.sinks - this.indexed
      const due =
        phase === 'promptEnd' ? waiting : phase === 'decode' && waiting >= this.does.every ? this.does.every : 0
      if (due <= 0) return extended
      const from = this.does.sinks + this.indexed
      const keys = lane.rotatedKeys(context, from, due)
      const block = await this.does.index(keys, { number: this.blocks.length, phase })
      keys.dispose()
      this.add(block, due)
      if (this.does.tier === 'host') for (const part of lane.parts) await toHost(part, from, from + due)
    }
  }

  add(block: Tensors, rows: number): void {
    this.blocks.push(block)
    this.sizes.push(rows)
    this.rows += rows
    this.account.add(Object.values(block).reduce((n, t) => n + bytesOf(t), 0))
  }

  /** Whether a step of n queries reads a selection. It does with one query, when there are more rows than the budget. */
  selects(n: number, lane: Lane): boolean {
    return (
      n === 1 && this.indexed > 0 && this.does.sinks + this.indexed > this.does.budget && lane.rows > this.does.budget
    )
  }

  /** Attends with one query per head `[queryHeads, 1, keyDim]` (before RoPE) to sinks, selected rows, recent rows, and the step's own. */
  async attend(lane: Lane, queries: tf.Tensor, own: NewRows | null, context: LaneContext): Promise<tf.Tensor> {
    const { sinks, budget, tier } = this.does
    const { heads, group } = lane.shape
    const rotated = context.rotation.rotate(queries)
    const flat = tf.reshape(rotated, [heads.length * group, lane.shape.keyDim])
    const count = Math.max(0, Math.min(this.indexed, budget - sinks))
    const chosen = await this.does.select(flat, this.blocks, this.sizes, count)
    const picked = (await chosen.data()) as Int32Array
    tf.dispose([rotated, flat, chosen])
    const indexedEnd = sinks + this.indexed
    const positions = tier === 'host' && lane.rotates(context.rotary) ? await positionsOf(lane, context) : null
    const always = tier === 'host' ? new Int32Array(0) : this.alwaysRead(lane, own?.n ?? 0, indexedEnd)
    const outputs: tf.Tensor[] = []
    // The query heads of one KV head read different rows, so the kernel is called once for each of them.
    for (let g = 0; g < group; g++) {
      const mine = tf.tidy(() => {
        const [, n = 0, dim = 0] = queries.shape
        const byGroup = tf.reshape(queries, [heads.length, group, n, dim])
        return tf.reshape(tf.slice(byGroup, [0, g, 0, 0], [-1, 1, -1, -1]), [heads.length, n, dim])
      })
      const rows = new Int32Array(heads.length * count)
      heads.forEach((_, h) => {
        for (let i = 0; i < count; i++) rows[h * count + i] = sinks + (picked[(h * group + g) * count + i] ?? 0)
      })
      const selection = { lane, queries: mine, own, context, rows, count, indexedEnd, always, positions }
      outputs.push(tier === 'host' ? this.attendFetched(selection) : this.attendMasked(selection))
      mine.dispose()
    }
    return tf.tidy(() => {
      const all = tf.stack(outputs, 1)
      tf.dispose(outputs)
      return tf.reshape(all, [heads.length * group, 1, lane.shape.valueDim])
    })
  }

  private attendMasked({ lane, queries, own, context, rows, count, always }: Selection): tf.Tensor {
    const heads = lane.shape.heads.length
    const total = lane.rows + (own?.n ?? 0)
    const mask = always.slice()
    const marks = lane.live.marks
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < count; i++) {
        const row = rows[h * count + i] ?? 0
        mask[h * total + row] = marks?.[h]?.[row] ?? 1
      }
    const live = tf.tensor2d(mask, [heads, total], 'int32')
    const output = lane.attend(queries, own, 0, context, { live })
    live.dispose()
    return output
  }

  /** Marks the rows that every query reads, `[heads, rows + extra]`: sinks and rows that are not indexed, unless they were dropped. */
  private alwaysRead({ shape, rows, live }: Lane, extra: number, indexedEnd: number): Int32Array {
    const total = rows + extra
    const mask = new Int32Array(shape.heads.length * total)
    const marks = live.marks
    for (let h = 0; h < shape.heads.length; h++) {
      const own = mask.subarray(h * total, (h + 1) * total)
      own.fill(1, 0, this.does.sinks)
      own.fill(1, indexedEnd)
      marks?.[h]?.forEach((x, row) => {
        if (x === 0) own[row] = 0
      })
    }
    return mask
  }

  private attendFetched({
    lane,
    queries,
    own,
    context,
    rows,
    count,
    indexedEnd,
    positions: all,
  }: Selection): tf.Tensor {
    const ranges = [
      [0, this.does.sinks],
      [indexedEnd, lane.rows],
    ] as const
    if (count === 0) return lane.attend(queries, own, 0, context, { ranges })
    const keys = fetchRows(lane.keys, rows, count)
    const values = fetchRows(lane.values, rows, count)
    const at = (row: number, i: number) => all?.[Math.floor(i / count) * lane.rows + row] ?? 0
    const positions = all && tf.tensor2d(rows.map(at), [lane.shape.heads.length, count], 'int32')
    // A row that was dropped and is still held may be selected, and is not seen.
    const { marks } = lane.live
    const live =
      marks &&
      tf.tensor2d(
        rows.map((row, i) => marks[Math.floor(i / count)]?.[row] ?? 1),
        [lane.shape.heads.length, count],
        'int32',
      )
    const output = lane.attend(queries, own, 0, context, { ranges, fetched: { keys, values, positions, live } })
    tf.dispose([keys, values, ...(positions ? [positions] : []), ...(live ? [live] : [])])
    return output
  }

  copy(account: Account): RecallIndex {
    const twin = new RecallIndex(this.does, account)
    this.blocks.forEach((block, i) => {
      twin.add(mapTensors(block, copyOf), this.sizes[i] ?? 0)
    })
    return twin
  }

  record(to: Recorder): IndexRecord {
    return this.blocks.map((block, i) => ({ rows: this.sizes[i] ?? 0, tensors: to.tensors(block) }))
  }
  restore(blocks: IndexRecord, from: Reader): void {
    for (const { rows, tensors } of blocks) this.add(from.tensors(tensors), rows)
  }

  dispose(): void {
    this.account.add(-this.bytes)
    for (const block of this.blocks) tf.dispose(Object.values(block))
    this.blocks.length = 0
    this.sizes.length = 0
    this.rows = 0
  }
}

async function positionsOf(lane: Lane, { positions: step }: LaneContext): Promise<Int32Array> {
  const tensor = lane.rotaryPositions(0, step)
  const positions = (await tensor.data()) as Int32Array
  step.release(tensor)
  return positions
}
