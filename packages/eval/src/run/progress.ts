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
    })
  }
  finish(): void {
    this.at(this.tokensPerRow)
  }
}
