/** How far a calibration is, and how long it will take. */
import type { KVCompressor } from '@kvloom/core'
import type { CalibrationProgress } from '@kvloom/engine'

export interface CalibrationState {
  /** 0 to 1. */
  readonly fraction: number
  /** The stage that is fitted. */
  readonly label: string
  /** Where it stands. */
  readonly detail: string
  /** null until there is something to judge by. */
  readonly secondsLeft: number | null
}

/** Turns what driver and engine report into a share of the work: the pieces of work are stages times layers times parts. */
export class FitMeter {
  private readonly started = performance.now()
  private readonly pieces: number
  private done = -1
  private shown = 0
  private label = 'calibrating'
  private place = ''

  constructor(
    compressor: KVCompressor,
    private readonly layers: number,
    private readonly report: ((state: CalibrationState) => void) | undefined,
  ) {
    this.pieces = compressor.stages
      .filter((s) => s.fit)
      .reduce((sum, s) => {
        if (s.fit?.scope === 'model') return sum + 1
        const on = (s.on?.layers?.length ?? layers) - (s.on?.except?.length ?? 0)
        return sum + Math.max(0, on) * (s.on?.part === undefined ? 2 : 1)
      }, 0)
  }

  at(progress: CalibrationProgress): void {
    if (progress.doing === 'fit') {
      this.done++
      const { stage, layer, part } = progress
      this.label = `calibrating ${stage}`
      this.place = `layer ${layer + 1}/${this.layers}${part === null ? '' : `, ${part}`}`
      this.show(this.place, 0)
    } else {
      const { doing, done, total } = progress
      const place = this.place ? `${this.place}: ` : ''
      this.show(`${place}${WORK[doing]} ${done}/${total}`, total > 0 ? done / total : 0)
    }
  }

  private show(detail: string, within: number): void {
    const now = (Math.max(0, this.done) + Math.min(1, within) / 2) / Math.max(1, this.pieces)
    // Rows of a layer come before the piece that they are for counts, so the plain number would go back.
    const fraction = Math.min(1, Math.max(this.shown, now))
    this.shown = fraction
    const elapsed = (performance.now() - this.started) / 1000
    this.report?.({
      fraction,
      label: this.label,
      detail,
      secondsLeft: fraction > 0.01 ? (elapsed * (1 - fraction)) / fraction : null,
    })
  }
}

const WORK = { rows: 'keys and values', gradients: 'gradients', hidden: 'hidden states' } as const
