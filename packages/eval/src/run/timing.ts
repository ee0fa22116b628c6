/**
 * The times of a comparison: every row, the uncompressed one like the others, opens a fresh cache; all caches are filled piece by
 * piece and then decode token by token, row after row in every round. The order is rotated from round to round and every second
 * time reversed, so that no row always follows the same one. What changes on the machine meanwhile meets all rows alike, and
 * ratios are of times that were taken side by side.
 */
import { type Artifact, type KVCache, type KVCompressor, openCache, type Phase, ready, takeTurn } from '@kvloom/core'
import { WatchedCache } from '../metrics/attention-watch'
import { median, type Spread, spread } from '../metrics/statistics'
import { type Plan, runLimited, type Step } from './plan'
import type { ScoringModel } from './scoring-model'

/** Rounds that a prompt is cut into; the first is a warm-up, ten give quartiles that mean something. */
const FILL_ROUNDS = 11
/** Decode rounds before the first one that counts. */
export const WARM_UP_ROUNDS = 2

/** What is timed, and how often. */
export interface TimingPlan {
  /** Tokens in the cache when decoding begins. */
  readonly contextTokens: number
  /** How the cache is filled: pieces of about an eleventh of the context. */
  readonly pieces: readonly Step[]
  /** Decode steps per row that count. */
  readonly rounds: number
  readonly warmUpRounds: number
  /** False where the protocol itself feeds single tokens: then nothing is prefilled, and no such time is reported. */
  readonly prefills: boolean
}

/**
 * Protocol E decodes behind its prompt, P and W behind the whole text.
 * @param rounds decode steps that count; 0: nothing is timed
 */
export function timingPlan({ protocol, tokens, promptTokens, steps }: Plan, rounds: number): TimingPlan | null {
  if (rounds === 0) return null
  const contextTokens = protocol === 'E' ? promptTokens : tokens
  const size = Math.ceil(contextTokens / FILL_ROUNDS)
  const ends = new Set([contextTokens, ...(promptTokens > 0 ? [promptTokens] : [])])
  for (let end = size; end < contextTokens; end += size) ends.add(end)
  const sorted = [...ends].sort((a, b) => a - b)
  const pieces = sorted.map((end, i): Step => {
    const phase: Phase = end < promptTokens ? 'prompt' : end === promptTokens ? 'promptEnd' : 'decode'
    return { start: sorted[i - 1] ?? 0, end, phase }
  })
  const prefills = steps.some((s) => s.end - s.start > 1) && contextTokens > 1
  return { contextTokens, pieces, rounds, warmUpRounds: WARM_UP_ROUNDS, prefills }
}

/** Tokens that timing feeds to each row. */
export const timingTokens = (plan: TimingPlan | null): number =>
  plan ? plan.contextTokens + plan.warmUpRounds + plan.rounds : 0

/** A row as it is timed. */
export interface TimedRow {
  readonly compressor: KVCompressor
  readonly artifacts: readonly Artifact[]
  readonly model: ScoringModel
}

/** What was measured of one row. Arrays are by round, with holes where a round was not measured. */
export interface RowSamples {
  /** Milliseconds per token of every piece of the prompt that counts. */
  readonly prefill: readonly (number | undefined)[]
  /** Milliseconds of every decode step that counts. */
  readonly decode: readonly (number | undefined)[]
  /** Share of all counted time spent inside the cache; null when nothing was measured. */
  readonly cacheShare: number | null
  /** Why the row could not be timed to its end. */
  readonly error: unknown
}

export interface TimingOptions {
  readonly ids: Int32Array
  readonly plan: TimingPlan
  readonly signal?: AbortSignal
  /** Called after each step with the tokens fed so far, all rows together. */
  readonly onTokens?: (tokens: number) => void
}

/** Times rows side by side. A row that fails drops out; an aborted signal ends the rounds, and what is measured is returned. */
export async function timeRows(rows: readonly TimedRow[], options: TimingOptions): Promise<readonly RowSamples[]> {
  const { plan, ids, signal } = options
  const timers = rows.map((row) => new RowTimer(row))
  let fed = 0
  const round = async (number: number, step: Step, counts: 'prefill' | 'decode' | null): Promise<void> => {
    for (const place of roundOrder(timers.length, number)) {
      const timer = timers[place]
      // Others have their turn here, so that the step has no need to give them one while it is timed.
      await takeTurn()
      if (signal?.aborted) return
      await timer?.step(ids, step, counts)
      fed += step.end - step.start
      options.onTokens?.(fed)
    }
  }
  try {
    for (const timer of timers) timer.open()
    for (const [i, piece] of plan.pieces.entries()) {
      const warmUp = i === 0 && plan.pieces.length > 1
      await round(i, piece, plan.prefills && !warmUp ? 'prefill' : null)
    }
    for (let i = 0; i < plan.warmUpRounds + plan.rounds; i++) {
      const start = plan.contextTokens + i
      await round(i, { start, end: start + 1, phase: 'decode' }, i < plan.warmUpRounds ? null : 'decode')
    }
    return timers.map((timer) => timer.samples())
  } finally {
    for (const timer of timers) timer.dispose()
  }
}

/** In which order rows take their turn: rotated by one from round to round, and backwards in every second one. */
export function roundOrder(rows: number, round: number): readonly number[] {
  const order = Array.from({ length: rows }, (_, turn) => (turn + round) % rows)
  return round % 2 === 0 ? order : order.reverse()
}

class RowTimer {
  private cache: KVCache | null = null
  private watched: WatchedCache | null = null
  private error: unknown = null
  private readonly times = { prefill: [] as (number | undefined)[], decode: [] as (number | undefined)[] }
  private total = 0
  private inCache = 0

  constructor(private readonly row: TimedRow) {}

  open(): void {
    const { model, compressor, artifacts } = this.row
    try {
      this.cache = openCache(model.shape, ready(compressor, artifacts))
      this.watched = new WatchedCache(this.cache)
    } catch (error) {
      this.fail(error)
    }
  }

  /** Feeds a step, in pieces where the cache takes no more at once; the pieces count as one. */
  async step(ids: Int32Array, step: Step, counts: 'prefill' | 'decode' | null): Promise<void> {
    const { watched } = this
    let milliseconds: number | undefined
    if (watched) {
      try {
        watched.resetTimes()
        const started = performance.now()
        await runLimited(
          [step],
          (tokens) => watched.canTake(tokens),
          (piece) => this.feed(watched, ids, piece, step),
        )
        milliseconds = performance.now() - started
      } catch (error) {
        this.fail(error)
      }
    }
    if (counts === null) return
    this.times[counts].push(milliseconds === undefined ? undefined : milliseconds / (step.end - step.start))
    this.total += milliseconds ?? 0
    this.inCache += milliseconds === undefined ? 0 : (watched?.cacheMs ?? 0)
  }

  private async feed(cache: WatchedCache, ids: Int32Array, { start, end, phase }: Step, whole: Step): Promise<void> {
    // Beyond the text its first tokens come again: times do not depend on which they are.
    const tokens = Int32Array.from({ length: end - start }, (_, i) => ids[(start + i) % ids.length] ?? 0)
    // A decode step ends with the logits of the next token; a prompt's are not wanted.
    const logits = whole.end - whole.start === 1 ? 'last' : 'none'
    const last = await this.row.model.forward(cache, tokens, phase, { logits })
    last?.dispose()
  }

  samples(): RowSamples {
    const { prefill, decode } = this.times
    return {
      prefill,
      decode,
      cacheShare: this.total > 0 ? Math.min(1, this.inCache / this.total) : null,
      error: this.error,
    }
  }

  dispose(): void {
    this.cache?.dispose()
    this.cache = null
    this.watched = null
  }

  private fail(error: unknown): void {
    this.error ??= error
    this.dispose()
  }
}

/** A row's times, and their ratios to the uncompressed row's of the same rounds. */
export interface Times {
  /** Milliseconds per token of pieces of a prompt; null when there was none. */
  readonly prefill: Spread | null
  /** Milliseconds of a step of one token; null when there was none. */
  readonly decode: Spread | null
  /** Share of all measured time spent inside the cache. */
  readonly cacheShare: number | null
  /** Time over the uncompressed row's of the same round. */
  readonly ratios: { readonly prefill: Spread | null; readonly decode: Spread | null }
}

export const NOT_TIMED: Times = {
  prefill: null,
  decode: null,
  cacheShare: null,
  ratios: { prefill: null, decode: null },
}

/** @param base samples of the uncompressed row, timed together with `own`; several where it was timed with several groups of rows. */
export function summarizeTimes(own: readonly RowSamples[], base: readonly RowSamples[]): Times {
  const all = (which: 'prefill' | 'decode') => own.flatMap((s) => s[which].filter((ms) => ms !== undefined))
  const ratios = (which: 'prefill' | 'decode') =>
    own.flatMap((samples, group) =>
      samples[which].flatMap((ms, round) => {
        const reference = base[group]?.[which][round]
        return ms === undefined || reference === undefined || reference <= 0 ? [] : [ms / reference]
      }),
    )
  const shares = own.flatMap((s) => (s.cacheShare === null ? [] : [s.cacheShare]))
  return {
    prefill: spread(all('prefill')),
    decode: spread(all('decode')),
    cacheShare: shares.length > 0 ? median(shares) : null,
    ratios: { prefill: spread(ratios('prefill')), decode: spread(ratios('decode')) },
  }
}
