/** Marks the live rows of a lane, which attention sees. There are marks only while some dropped rows are still held. */
import * as tf from '@tensorflow/tfjs-core'
import type { RowRange } from '../contract'
import { SerializedCacheError } from '../errors'
import type { LaneRecord } from './file/format'

export class LiveRows {
  /** 1 for every live row, per head; null while every row is live. The arrays are longer than the lane, so that new rows find room. */
  private buffers: readonly Int32Array[] | null = null
  private length = 0
  private count = 0
  /** Whether a row was dropped since the last time that dropped rows were freed. */
  died = false

  /** The marks, per head and row; null while every stored row is live. All heads have equally many live rows. */
  get marks(): readonly Int32Array[] | null {
    return this.buffers?.map((row) => row.subarray(0, this.length)) ?? null
  }
  set marks(marks: readonly Int32Array[] | null) {
    this.buffers = marks
    this.length = marks?.[0]?.length ?? 0
    const [first] = marks ?? []
    this.count = 0
    if (first) for (let row = 0; row < first.length; row++) this.count += first[row] ?? 0
  }
  /** How many rows of a head are live. */
  of(rows: number): number {
    return this.buffers ? this.count : rows
  }

  append(n: number): void {
    const { buffers, length } = this
    if (!buffers) return
    this.buffers = buffers.map((row) => {
      if (length + n <= row.length) return row.fill(1, length, length + n)
      const longer = new Int32Array(2 * (length + n))
      longer.set(row.subarray(0, length))
      return longer.fill(1, length, length + n)
    })
    this.length += n
    this.count += n
  }
  /** Keeps the first `rows` rows. */
  truncate(rows: number): void {
    if (this.buffers) this.marks = this.buffers.map((row) => row.slice(0, rows))
  }
  /** Forgets rows `start ... end`, which are not held any more. */
  remove({ start, end }: RowRange): void {
    this.marks =
      this.marks?.map((row) => {
        const shorter = new Int32Array(row.length - (end - start))
        shorter.set(row.subarray(0, start))
        shorter.set(row.subarray(end), start)
        return shorter
      }) ?? null
  }

  /**
   * The marks as a tensor int32 `[heads, rows + extra]`, the last `extra` of them live; null while every row is live. The caller owns it. It is
   * made anew at each read, since a lane grows by a row at every step, and a mask that stayed on the device would be bytes to count.
   */
  tensor(extra: number): tf.Tensor2D | null {
    const { buffers, length } = this
    if (!buffers) return null
    const rows = length + extra
    const flat = new Int32Array(buffers.length * rows).fill(1)
    for (const [h, row] of buffers.entries()) flat.set(row.subarray(0, length), h * rows)
    return tf.tensor2d(flat, [buffers.length, rows], 'int32')
  }

  copy(): LiveRows {
    const twin = new LiveRows()
    twin.marks = this.marks?.map((row) => row.slice()) ?? null
    twin.died = this.died
    return twin
  }

  record(): LaneRecord['dead'] {
    return this.marks?.map((row) => Array.from(row.keys()).filter((i) => row[i] === 0)) ?? null
  }
  /** @throws SerializedCacheError */
  restore(dead: LaneRecord['dead'], heads: number, rows: number): void {
    if (!dead) return
    if (dead.length !== heads || dead.some((row) => row.some((i) => i >= rows)))
      throw new SerializedCacheError('it marks rows as dropped that it does not hold.')
    this.marks = dead.map((list) => {
      const row = new Int32Array(rows).fill(1)
      for (const i of list) row[i] = 0
      return row
    })
  }
}
