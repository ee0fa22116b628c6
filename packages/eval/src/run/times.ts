/** Step times into milliseconds per token, with spread. */
import type { Phase } from '@kvloom/core'
import { mean, type Spread, spread } from '../metrics/statistics'

export interface StepTime {
  readonly tokens: number
  readonly phase: Phase
  /** The whole step, scoring excluded. */
  readonly milliseconds: number
  /** Of it inside the cache: attention, eviction, quantization. */
  readonly cacheMilliseconds: number
}

export interface Times {
  /** Milliseconds per token of steps of more than one token; null when there was none. */
  readonly prefill: Spread | null
  /** Milliseconds of a step of one token; null when there was none. */
  readonly decode: Spread | null
  /** Share of all measured time spent inside the cache. */
  readonly cacheShare: number
}

export function summarizeTimes(steps: readonly StepTime[]): Times {
  const several = steps.filter((s) => s.tokens > 1)
  const single = steps.filter((s) => s.tokens === 1)
  const total = mean(steps.map((s) => s.milliseconds))
  return {
    prefill: spread(several.map((s) => s.milliseconds / s.tokens)),
    decode: spread(single.map((s) => s.milliseconds)),
    cacheShare: total > 0 ? Math.min(1, mean(steps.map((s) => s.cacheMilliseconds)) / total) : 0,
  }
}
