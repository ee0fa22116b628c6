/** How far a comparison is and how long it may still take. */

export interface Progress {
  /** The row that runs. */
  readonly name: string
  /** Its number, from 0 (the uncompressed run), and how many there are. */
  readonly index: number
  readonly count: number
  /** Of the whole comparison, 0 to 1. */
  readonly fraction: number
  readonly secondsElapsed: number
  /** null until there is something to judge by. */
  readonly secondsLeft: number | null
  /** What goes on before the row is measured, such as its calibration; null while it is measured. */
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

/** Counts tokens; every row has the same number of them. Rows that are done give the pace of those to come. */
export class ProgressMeter {
  private readonly started = performance.now()
  private index = -1
  private name = ''

  /** @param tokensPerRow tokens each of `rows` rows feeds. */
  constructor(
    private readonly tokensPerRow: number,
    private readonly rows: number,
    private readonly report?: (progress: Progress) => void,
  ) {}

  /** What goes on before the row's tokens run. Its time left is its own; the comparison's is not known meanwhile. */
  busy({ activity, detail = null, secondsLeft = null }: Activity): void {
    this.report?.({
      name: this.name,
      index: this.index,
      count: this.rows,
      fraction: Math.min(1, this.index / this.rows),
      secondsElapsed: (performance.now() - this.started) / 1000,
      secondsLeft,
      activity,
      detail,
    })
  }

  start(name: string): void {
    this.index++
    this.name = name
    this.at(0)
  }
  /** `tokens` of the current row are done. */
  at(tokens: number): void {
    const rows = this.index + Math.min(1, tokens / this.tokensPerRow)
    const fraction = Math.min(1, rows / this.rows)
    const elapsed = (performance.now() - this.started) / 1000
    this.report?.({
      name: this.name,
      index: this.index,
      count: this.rows,
      fraction,
      secondsElapsed: elapsed,
      secondsLeft: fraction > 0.002 ? (elapsed * (1 - fraction)) / fraction : null,
      activity: null,
      detail: null,
    })
  }
  finish(): void {
    this.at(this.tokensPerRow)
  }
}
