/** The original positions of a lane's rows. They are kept as runs while every head holds the same tokens, and as a tensor once heads differ. */
import { gatherRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { copyOf } from '../tensors'
import { type Account, Held } from './account'
import type { PositionsRecord, Recorder } from './file/format'
import type { Reader } from './file/reader'

interface Run {
  readonly start: number
  readonly rows: number
}

export class Positions {
  /** int32 `[heads, rows]`: the positions of rows that were gathered. The runs come behind them. */
  private readonly gathered: Held<tf.Tensor2D>
  private runs: Run[] = []
  /** An upper bound: every position of `gathered` is smaller. */
  private highest = 0

  constructor(
    private readonly heads: number,
    account: Account,
  ) {
    this.gathered = new Held(account)
  }

  get bytes(): number {
    return this.gathered.bytes
  }
  get rows(): number {
    return (this.gathered.tensor?.shape[1] ?? 0) + this.runs.reduce((n, run) => n + run.rows, 0)
  }
  /** An upper bound: every position is smaller, though there may be no row at the position just below it. */
  get end(): number {
    return Math.max(this.highest, ...this.runs.map((r) => r.start + r.rows))
  }
  /** A name for these positions: lanes with the same name have the same positions. It is null once heads differ. */
  get name(): string | null {
    if (this.gathered.tensor) return null
    return `${this.heads}: ${this.runs.map(({ start, rows }) => `${start}+${rows}`).join(' ')}`
  }

  /** Numbers the rows from 0: they are slots now. */
  restart(rows: number): void {
    this.gathered.replace(null)
    this.runs = rows > 0 ? [{ start: 0, rows }] : []
    this.highest = 0
  }

  append(start: number, rows: number): void {
    const last = this.runs.at(-1)
    if (last && last.start + last.rows === start)
      this.runs[this.runs.length - 1] = { start: last.start, rows: last.rows + rows }
    else this.runs.push({ start, rows })
  }

  /**
   * The positions as int32 `[heads, rows + extra]`, or `[1, rows + extra]` while all heads have the same and `apart` does not ask for each. The
   * last `extra` are zeros. The caller owns it.
   */
  tensor(extra = 0, apart = true): tf.Tensor2D {
    const held = this.gathered.tensor
    const rows = this.rows - (held?.shape[1] ?? 0) + extra
    const heads = held || apart ? this.heads : 1
    const flat = new Int32Array(heads * rows)
    let at = 0
    for (const run of this.runs) for (let i = 0; i < run.rows; i++) flat[at++] = run.start + i
    for (let h = 1; h < heads; h++) flat.copyWithin(h * rows, 0, at)
    const tail = tf.tensor2d(flat, [heads, rows], 'int32')
    if (!held) return tail
    const all: tf.Tensor2D = tf.concat([held, tail], 1)
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
    twin.runs = [...this.runs]
    twin.highest = this.highest
    return twin
  }

  record(to: Recorder): PositionsRecord {
    const { tensor } = this.gathered
    return { gathered: tensor && to.tensor(tensor), runs: this.runs, highest: this.highest }
  }
  restore({ gathered, runs, highest }: PositionsRecord, from: Reader): void {
    this.gathered.replace(gathered && (from.tensor(gathered) as tf.Tensor2D))
    this.runs = [...runs]
    this.highest = highest
  }

  dispose(): void {
    this.gathered.replace(null)
    this.runs = []
  }
}
