/** Runs the recall of a lane: builds the index over its keys in blocks, and attends to the rows that it selects. */
import * as tf from '@tensorflow/tfjs-core'
import type { Phase, Recall, Tensors } from '../contract'
import { UnsupportedStage } from '../errors'
import { bytesOf, copyOf, mapTensors } from '../tensors'
import type { Account } from './account'
import type { IndexRecord, Recorder } from './file/format'
import type { Reader } from './file/reader'
import type { Lane, LaneContext, NewRows } from './lane'
import { fetchRows, toHost } from './rows/host'

/** On the host tier: what one query head of every KV head reads, `count` selected rows each, `[heads, count]`. */
interface Selection {
  readonly lane: Lane
  /** The queries `[heads, 1, keyDim]`, before RoPE. */
  readonly queries: tf.Tensor
  readonly own: NewRows | null
  readonly stored: number
  readonly context: LaneContext
  readonly rows: Int32Array
  readonly count: number
  readonly indexedEnd: number
  /** For keys before RoPE: the position to which every stored row is rotated, `[heads or 1, rows]`. */
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

  /**
   * Whether a step of n queries, whose own rows are the last `stored` ones, reads a selection. It does with one query, when there are more rows
   * before it than the budget.
   */
  selects(n: number, { rows }: Lane, stored: number): boolean {
    const { sinks, budget } = this.does
    return n === 1 && this.indexed > 0 && sinks + this.indexed > budget && rows - stored > budget
  }

  /**
   * Attends with one query per head `[queryHeads, 1, keyDim]` (before RoPE) to sinks, selected rows, recent rows, and the step's own: `own`, or the
   * last `stored` rows.
   */
  async attend(
    lane: Lane,
    queries: tf.Tensor,
    own: NewRows | null,
    stored: number,
    context: LaneContext,
  ): Promise<tf.Tensor> {
    const { sinks, budget, tier } = this.does
    const { heads, group } = lane.shape
    const rotated = context.rotation.rotate(queries)
    const flat = tf.reshape(rotated, [heads.length * group, lane.shape.keyDim])
    const count = Math.max(0, Math.min(this.indexed, budget - sinks))
    const chosen = await this.does.select(flat, this.blocks, this.sizes, count)
    const picked = (await chosen.data()) as Int32Array
    tf.dispose([rotated, flat, chosen])
    this.checkSelection(picked, count)
    if (tier === 'device')
      return lane.attend(queries, own, stored, context, { lists: this.listsOf(lane, picked, count, own?.n ?? 0) })
    const indexedEnd = sinks + this.indexed
    const positions = lane.rotates(context.rotary) ? await positionsOf(lane, context) : null
    const outputs: tf.Tensor[] = []
    // The query heads of one KV head fetch different rows, so the kernel is called once for each of them.
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
      outputs.push(
        this.attendFetched({ lane, queries: mine, own, stored, context, rows, count, indexedEnd, positions }),
      )
      mine.dispose()
    }
    return tf.tidy(() => {
      const all = tf.stack(outputs, 1)
      tf.dispose(outputs)
      return tf.reshape(all, [heads.length * group, 1, lane.shape.valueDim])
    })
  }

  /** @throws UnsupportedStage when the rows of a query head are not ascending, or are not indexed */
  private checkSelection(picked: Int32Array, count: number): void {
    for (const [i, row] of picked.entries()) {
      const before = i % count === 0 ? -1 : (picked[i - 1] ?? -1)
      if (row <= before || row >= this.indexed)
        throw new UnsupportedStage(
          'a recall',
          `it selected row ${row} after row ${before} of ${this.indexed} indexed ones; let it select rows in ascending order, each once.`,
        )
    }
  }

  /**
   * The rows that each query head reads, ascending: sinks, selected ones, those that are not indexed, and the step's own. `picked` are
   * selected rows, counted from the first indexed one, `[queryHeads, count]`. Rows that were dropped and are still held are left out.
   */
  private listsOf({ shape, rows, live }: Lane, picked: Int32Array, count: number, extra: number): Int32Array[] {
    const { sinks } = this.does
    const indexedEnd = sinks + this.indexed
    const { marks } = live
    return Array.from({ length: shape.heads.length * shape.group }, (_, q) => {
      const mark = marks?.[Math.floor(q / shape.group)]
      const list = new Int32Array(sinks + count + rows + extra - indexedEnd)
      let length = 0
      const add = (row: number) => {
        if (mark?.[row] !== 0) list[length++] = row
      }
      for (let row = 0; row < sinks; row++) add(row)
      for (let i = q * count; i < (q + 1) * count; i++) add(sinks + (picked[i] ?? 0))
      for (let row = indexedEnd; row < rows + extra; row++) add(row)
      return list.subarray(0, length)
    })
  }

  private attendFetched({
    lane,
    queries,
    own,
    stored,
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
    if (count === 0) return lane.attend(queries, own, stored, context, { ranges })
    const keys = fetchRows(lane.keys, rows, count)
    const values = fetchRows(lane.values, rows, count)
    const perHead = all && all.length > lane.rows ? lane.rows : 0
    const at = (row: number, i: number) => all?.[Math.floor(i / count) * perHead + row] ?? 0
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
    const output = lane.attend(queries, own, stored, context, { ranges, fetched: { keys, values, positions, live } })
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
