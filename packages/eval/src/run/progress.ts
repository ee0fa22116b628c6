/** How far a comparison is and how long it may still take. It never goes back. */

export interface Progress {
  /** The row that runs, or what rows do together. */
  readonly name: string
  /** Its number, from 0 (the uncompressed run), and how many there are; while rows are timed together, that of the row before. */
  readonly index: number
  readonly count: number
  /** Of the whole comparison, 0 to 1. */
  readonly fraction: number
  readonly secondsElapsed: number
  /** null until there is something to judge by. */
  readonly secondsLeft: number | null
  /** What goes on before the row is measured, such as its calibration; null while it is measured, and while rows are timed. */
  readonly activity: string | null
  /** Where the activity stands, such as a layer. */
  readonly detail: string | null
}

/** What goes on before a row is measured. */
export interface Activity {
  readonly activity: string
  readonly detail?: string | null
  readonly secondsLeft?: number | null
}

/** Below this share of the work the pace is not known yet. */
const ENOUGH = 0.002

/** Counts tokens; every row that runs has the same number of them, and timing feeds its own. Rows that are done give the pace of those to come. */
export class ProgressMeter {
  private readonly started = performance.now()
  private readonly total: number
  private index = 0
  private name = ''
  /** Tokens of rows that ended, of all so far, and of timing. */
  private ended = 0
  private done = 0
  private timed = 0
  /** Seconds spent on what is not counted in tokens, and since when it goes on. */
  private busySeconds = 0
  private busySince: number | null = null

  constructor(
    private readonly o: {
      readonly tokensPerRow: number
      /** Rows that run, the uncompressed one included, and rows of the table. */
      readonly runs: number
      readonly rows: number
      readonly timingTokens: number
      readonly report?: (progress: Progress) => void
    },
  ) {
    this.total = o.tokensPerRow * o.runs + o.timingTokens
  }

  /** What goes on before the row's tokens run. Its time left is its own; the comparison's is not known meanwhile. */
  busy({ activity, detail = null, secondsLeft = null }: Activity): void {
    this.busySince ??= this.elapsed
    this.send(secondsLeft, activity, detail)
  }
  /** @param index the row's number in the table. */
  start(name: string, index: number): void {
    this.index = index
    this.name = name
    this.at(0)
  }
  /** `tokens` of the current row are done. */
  at(tokens: number): void {
    this.reach(this.ended + Math.min(this.o.tokensPerRow, tokens))
  }
  finish(): void {
    this.at(this.o.tokensPerRow)
    this.ended += this.o.tokensPerRow
  }
  /** `rows` rows are timed side by side. */
  startTiming(rows: number): void {
    this.name = `times of ${rows} rows, in turns`
  }
  /** `tokens` were fed to take times, by all rows together since the beginning. */
  timing(tokens: number): void {
    this.timed = tokens
    this.reach(this.ended)
  }
  /** Everything is done, also what was skipped because a row failed. */
  end(): void {
    this.reach(this.total)
  }

  private reach(tokens: number): void {
    this.done = Math.max(this.done, Math.min(this.total, tokens + this.timed))
    const fraction = this.done / this.total
    if (this.busySince !== null) this.busySeconds += this.elapsed - this.busySince
    this.busySince = null
    const left = ((this.elapsed - this.busySeconds) * (1 - fraction)) / fraction
    this.send(fraction > ENOUGH ? left : null, null, null)
  }

  private get elapsed(): number {
    return (performance.now() - this.started) / 1000
  }

  private send(secondsLeft: number | null, activity: string | null, detail: string | null): void {
    this.o.report?.({
      name: this.name,
      index: this.index,
      count: this.o.rows,
      fraction: this.total > 0 ? this.done / this.total : 0,
      secondsElapsed: this.elapsed,
      secondsLeft,
      activity,
      detail,
    })
  }
}
