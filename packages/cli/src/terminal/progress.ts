/** Progress on stderr: a bar on a terminal, a line per stage elsewhere. stdout is never touched. */
import { Presets, SingleBar } from 'cli-progress'

/** How the work stands. */
export interface Shown {
  /** 0 to 1. */
  readonly fraction: number
  readonly label: string
  /** Shown behind the label; a line of its own only now and then where there is no terminal. */
  readonly detail?: string | null
  readonly secondsLeft?: number | null
}

export interface ProgressLine {
  show(state: Shown): void
  stop(): void
}

/** @param stream for tests; default stderr. */
export function progressLine(stream: NodeJS.WriteStream = process.stderr): ProgressLine {
  return stream.isTTY ? bar(stream) : plainLines(stream)
}

function bar(stream: NodeJS.WriteStream): ProgressLine {
  const width = Math.max(10, Math.min(30, (stream.columns || 80) - 60))
  const single = new SingleBar(
    {
      stream,
      format: '{bar} {percentage} %  {label}  {left}',
      barsize: width,
      hideCursor: true,
      clearOnComplete: true,
      stopOnComplete: false,
      fps: 10,
    },
    Presets.shades_classic,
  )
  let started = false
  return {
    show({ fraction, label: stage, detail, secondsLeft }) {
      const label = detail ? `${stage}, ${detail}` : stage
      const payload = { label, left: secondsLeft == null ? '' : `${duration(secondsLeft)} left` }
      if (started) single.update(Math.round(fraction * 1000), payload)
      else single.start(1000, Math.round(fraction * 1000), payload)
      started = true
    },
    stop() {
      if (started) single.stop()
      started = false
    },
  }
}

/** Seconds between two lines about the same stage. */
const QUIET_SECONDS = 15

function plainLines(stream: NodeJS.WriteStream): ProgressLine {
  let label = ''
  let last = 0
  return {
    show(state) {
      const now = performance.now() / 1000
      if (state.label === label && now - last < QUIET_SECONDS) return
      const left = state.secondsLeft == null ? '' : `, ${duration(state.secondsLeft)} left`
      const detail = state.detail ? `, ${state.detail}` : ''
      stream.write(`${String(Math.floor(state.fraction * 100)).padStart(3)} %  ${state.label}${detail}${left}\n`)
      label = state.label
      last = now
    },
    stop() {},
  }
}

/** `42 s`, `3 min 05 s`, `1 h 02 min`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  const minutes = Math.floor(whole / 60)
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, '0')} s`
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`
}
