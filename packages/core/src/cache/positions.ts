/** Original positions of a lane's rows: runs while every head holds the same tokens, a tensor once heads differ. */

import { gatherRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { type Account, Held } from './page'

export class Positions {
  /** int32 `[heads, rows]` for rows that were gathered; runs follow it. */
  private readonly gathered: Held<tf.Tensor2D>
  private runs: { start: number; rows: number }[] = []

  constructor(
    private readonly heads: number,
    account: Account,
  ) {
    this.gathered = new Held(account)
  }

  get bytes(): number {
    return this.gathered.bytes
  }

  /** One more than the largest position, or more. */
  get end(): number {
    return Math.max(this.highest, ...this.runs.map((r) => r.start + r.rows))
  }
  private highest = 0

  /** Rows are slots now: numbered from 0. */
  restart(rows: number): void {
    this.gathered.replace(null)
    this.runs = rows > 0 ? [{ start: 0, rows }] : []
    this.highest = 0
  }

  append(start: number, rows: number): void {
    const last = this.runs[this.runs.length - 1]
    if (last && last.start + last.rows === start) last.rows += rows
    else this.runs.push({ start, rows })
  }

  /** int32 `[heads, rows]`, owned by the caller. */
  tensor(): tf.Tensor2D {
    const flat = Int32Array.from(this.runs.flatMap((r) => Array.from({ length: r.rows }, (_, i) => r.start + i)))
    const tail = tf.tidy(() => tf.tile(tf.tensor2d(flat, [1, flat.length], 'int32'), [this.heads, 1]))
    const held = this.gathered.tensor
    if (!held) return tail
    const all = tf.concat([held, tail], 1) as tf.Tensor2D
    tail.dispose()
    return all
  }

  gather(index: tf.Tensor2D, n: number): void {
    const all = this.tensor()
    const kept = tf.tidy(() => {
      const rows = tf.reshape(all, [this.heads, -1, 1])
      return tf.reshape(gatherRows([rows], [all.shape[1]], index, n), [this.heads, n]) as tf.Tensor2D
    })
    all.dispose()
    this.highest = this.end
    this.gathered.replace(kept)
    this.runs = []
  }

  drop(start: number, end: number): void {
    let at = 0
    const held = this.gathered.tensor
    if (held) {
      const n = held.shape[1]
      const [a, b] = [Math.min(start, n), Math.min(end, n)]
      if (a < b)
        this.gathered.replace(
          tf.tidy(() => tf.concat([tf.slice(held, [0, 0], [-1, a]), tf.slice(held, [0, b], [-1, n - b])], 1)),
        )
      at = n
    }
    this.runs = this.runs.flatMap((r) => {
      const [a, b] = [at, at + r.rows]
      at = b
      const cutFrom = Math.max(a, start)
      const cutTo = Math.min(b, end)
      if (cutFrom >= cutTo) return [r]
      const parts = [
        { start: r.start, rows: cutFrom - a },
        { start: r.start + cutTo - a, rows: b - cutTo },
      ]
      return parts.filter((p) => p.rows > 0)
    })
  }

  copy(account: Account): Positions {
    const twin = new Positions(this.heads, account)
    const held = this.gathered.tensor
    if (held) twin.gathered.replace(copyOf(held))
    twin.runs = this.runs.map((r) => ({ ...r }))
    twin.highest = this.highest
    return twin
  }

  /** For serialisation. */
  get state(): {
    readonly gathered: tf.Tensor2D | null
    readonly runs: readonly { start: number; rows: number }[]
    readonly highest: number
  } {
    return { gathered: this.gathered.tensor, runs: this.runs, highest: this.highest }
  }
  restore(gathered: tf.Tensor2D | null, runs: readonly { start: number; rows: number }[], highest: number): void {
    this.gathered.replace(gathered)
    this.highest = highest
    this.runs = runs.map((r) => ({ ...r }))
  }

  dispose(): void {
    this.gathered.replace(null)
    this.runs = []
  }
}

/** A copy with storage of its own (tf.clone shares it, and the ledger counts what is held). */
export const copyOf = <T extends tf.Tensor>(t: T): T =>
  tf.tidy(() => tf.reshape(tf.concat([tf.reshape(t, [-1]), tf.zeros([0], t.dtype)]), t.shape)) as T
