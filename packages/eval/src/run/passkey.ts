/** Passkey trials: a number hidden in a text, asked for after the text was compressed with the question unseen. */
import { type Artifact, type KVCompressor, openCache, ready, takeTurn } from '@kvloom/core'
import { InterruptedError, NonFiniteLogitsError } from '../errors'
import { largestIndex, logSumExp } from '../metrics/logits'
import { mean } from '../metrics/statistics'
import { runLimited, type Step } from './plan'
import type { ScoringModel } from './scoring-model'

/** Token ids of one trial. */
export interface PasskeyTrial {
  readonly context: Int32Array
  readonly question: Int32Array
  readonly answer: Int32Array
  /** Answer tokens that decide, `[from, to)`: the digits. */
  readonly digits: { readonly from: number; readonly to: number }
}

export interface PasskeyResult {
  readonly trials: number
  readonly hits: number
  readonly accuracy: number
  /** Mean over trials of the summed log-probability of the digits, nats. */
  readonly meanLogProbability: number
  /** Longest context, in tokens. */
  readonly contextTokens: number
}

export interface PasskeyOptions {
  readonly model: ScoringModel
  readonly compressor: KVCompressor
  readonly artifacts?: readonly Artifact[]
  readonly trials: readonly PasskeyTrial[]
  /** Tokens per prefill step. Default 512. */
  readonly prefillChunk?: number
  readonly onTokens?: (tokens: number) => void
  readonly signal?: AbortSignal
}

/** Tokens one trial feeds. */
export const trialTokens = (t: PasskeyTrial): number => t.context.length + t.question.length + t.answer.length

/** Prefills each context, ends the prompt (evicts), then feeds question and answer; a hit has every digit as the arg max. */
export async function passkey(options: PasskeyOptions): Promise<PasskeyResult> {
  const { trials } = options
  let fed = 0
  let hits = 0
  const logProbabilities: number[] = []
  for (const trial of trials) {
    const result = await runTrial(options, trial)
    if (result.hit) hits++
    logProbabilities.push(result.logProbability)
    fed += trialTokens(trial)
    options.onTokens?.(fed)
  }
  return {
    trials: trials.length,
    hits,
    accuracy: trials.length > 0 ? hits / trials.length : 0,
    meanLogProbability: trials.length > 0 ? mean(logProbabilities) : 0,
    contextTokens: Math.max(0, ...trials.map((t) => t.context.length)),
  }
}

async function runTrial(
  options: PasskeyOptions,
  trial: PasskeyTrial,
): Promise<{ hit: boolean; logProbability: number }> {
  const { model, compressor, artifacts = [], prefillChunk = 512 } = options
  const { context, question, answer, digits } = trial
  const ids = Int32Array.from([...context, ...question, ...answer])
  const asked = context.length + question.length
  const cache = openCache(model.shape, ready(compressor, artifacts))
  let hit = true
  let logProbability = 0
  const score = (position: number, row: Float32Array): void => {
    const at = position + 1 - asked
    if (at < digits.from || at >= digits.to) return
    const normalizer = logSumExp(row)
    if (!Number.isFinite(normalizer)) throw new NonFiniteLogitsError(position)
    const target = answer[at] as number
    logProbability += (row[target] as number) - normalizer
    if (largestIndex(row) !== target) hit = false
  }
  try {
    const whole: Step[] = [
      { start: 0, end: context.length, phase: 'promptEnd' },
      { start: context.length, end: ids.length, phase: 'decode' },
    ]
    const run = async (step: Step): Promise<void> => {
      await takeTurn()
      if (options.signal?.aborted) throw new InterruptedError()
      const visit = async (
        from: number,
        logits: { data(): Promise<ArrayLike<number>>; shape: readonly number[] },
      ): Promise<void> => {
        const values = (await logits.data()) as Float32Array
        const width = logits.shape[1] ?? 1
        for (let row = 0; row * width < values.length; row++)
          score(step.start + from + row, values.subarray(row * width, (row + 1) * width))
      }
      const scored = step.end >= asked + digits.from
      await model.forward(cache, ids.subarray(step.start, step.end), step.phase, {
        logits: scored ? { visit } : 'none',
      })
    }
    await runLimited(whole, (tokens) => cache.canTake(Math.min(prefillChunk, tokens)), run)
  } finally {
    cache.dispose()
  }
  return { hit, logProbability }
}
