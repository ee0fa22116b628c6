/** What a scorer remembers of every row of a lane, by name: columns f32 `[heads, rows]`, which are counted, gathered and dropped with the rows. */
import { gatherRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { SerializedCacheError } from '../errors'
import { copyOf } from '../tensors'
import { type Account, Held } from './account'
import type { Recorder, TensorRecords } from './file/format'
import type { Reader } from './file/reader'

export class Columns {
  private readonly held = new Map<string, Held<tf.Tensor2D>>()

  constructor(
    private readonly heads: number,
    private readonly account: Account,
  ) {}

  get bytes(): number {
    let sum = 0
    for (const { bytes } of this.held.values()) sum += bytes
    return sum
  }
  /** Lends a column. When it is asked for the first time, it has zeros for the rows that are there. */
  ensure(name: string, rows: number): tf.Tensor2D {
    const known = this.held.get(name)?.tensor
    if (known) return known
    const zeros: tf.Tensor2D = tf.zeros([this.heads, rows])
    this.set(name, zeros)
    return zeros
  }
  /** Replaces a column, and takes the new one over. */
  set(name: string, next: tf.Tensor2D): void {
    const held = this.held.get(name) ?? new Held<tf.Tensor2D>(this.account)
    this.held.set(name, held)
    held.replace(next)
  }

  /** Adds `n` rows of zeros. */
  append(n: number): void {
    this.each((column) => tf.concat([column, tf.zeros([column.shape[0], n])], 1))
  }
  /** Drops rows `start ... end`. */
  drop(start: number, end: number): void {
    this.each((column) => {
      const [, rows] = column.shape
      return tf.concat([tf.slice(column, [0, 0], [-1, start]), tf.slice(column, [0, end], [-1, rows - end])], 1)
    })
  }
  /** Keeps rows `index` int32 `[heads, n]`. */
  gather(index: tf.Tensor2D, n: number): void {
    this.each((column) => {
      const [heads, rows] = column.shape
      return tf.reshape(gatherRows([tf.reshape(column, [heads, rows, 1])], [rows], index, n), [heads, n])
    })
  }
  private each(change: (column: tf.Tensor2D) => tf.Tensor2D): void {
    for (const held of this.held.values()) {
      const { tensor } = held
      if (tensor) held.replace(tf.tidy(() => change(tensor)))
    }
  }

  copy(account: Account): Columns {
    const twin = new Columns(this.heads, account)
    for (const [name, { tensor }] of this.held) if (tensor) twin.set(name, copyOf(tensor))
    return twin
  }
  record(to: Recorder): TensorRecords {
    return to.tensors(
      Object.fromEntries([...this.held].flatMap(([name, { tensor }]) => (tensor ? [[name, tensor] as const] : []))),
    )
  }
  /** @throws SerializedCacheError */
  restore(record: TensorRecords, from: Reader, rows: number): void {
    for (const [name, column] of Object.entries(record)) {
      if (column.shape[0] !== this.heads || column.shape[1] !== rows)
        throw new SerializedCacheError('a score column is not as long as its rows.')
      this.set(name, from.tensor(column) as tf.Tensor2D)
    }
  }
  dispose(): void {
    for (const held of this.held.values()) held.replace(null)
    this.held.clear()
  }
}
