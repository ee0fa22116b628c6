/**
 * Protocols as data: which tokens are fed in which steps, and which of them are scored.
 * Row i of the logits predicts token i + 1.
 */
import type { Phase } from '@kvloom/core'
import { EvalOptionError } from '../errors'

export interface Step {
  /** Tokens `[start, end)`. */
  readonly start: number
  readonly end: number
  readonly phase: Phase
}

/** Half-open range. */
export interface Range {
  readonly from: number
  readonly to: number
}

export interface Plan {
  readonly protocol: 'P' | 'E'
  readonly tokens: number
  readonly chunk: number
  /** Protocol E: tokens before the eviction. Protocol P: 0. */
  readonly promptTokens: number
  readonly steps: readonly Step[]
  /** Tokens whose likelihood counts; their rows are one lower. */
  readonly targets: Range
  /** Rows whose distribution is compared with the uncompressed run's. */
  readonly rows: Range
}

const whole = (option: string, given: number, min: number, max: number, cure: string): void => {
  if (!Number.isInteger(given) || given < min || given > max)
    throw new EvalOptionError(option, given, `a whole number from ${min} to ${max}`, cure)
}

/**
 * Protocol P: the text in chunks of `chunk` tokens (1 = true decoding). A chunk attends to the compressed past and to
 * itself exactly, then it is appended and compressed. Targets are the tokens `scoreFrom .. tokens - 1`.
 */
export function protocolP(o: { readonly tokens: number; readonly chunk: number; readonly scoreFrom: number }): Plan {
  whole('tokens', o.tokens, 2, Number.MAX_SAFE_INTEGER, 'Give a longer text.')
  whole('chunk', o.chunk, 1, o.tokens, 'Take a chunk no longer than the text.')
  whole('scoreFrom', o.scoreFrom, 1, o.tokens - 1, 'Leave at least one token to score.')
  return {
    protocol: 'P',
    tokens: o.tokens,
    chunk: o.chunk,
    promptTokens: 0,
    steps: cut(0, o.tokens, o.chunk, 'decode'),
    targets: { from: o.scoreFrom, to: o.tokens },
    rows: { from: o.scoreFrom - 1, to: o.tokens - 1 },
  }
}

/**
 * Protocol E: prefill `promptTokens`, let the end of the prompt evict once, feed the rest in steps of `chunk` over the
 * compressed cache. All ids after the prompt are targets (the first is predicted by the exact prefill); distributions
 * are compared on every row after the prompt.
 */
export function protocolE(o: {
  readonly tokens: number
  readonly promptTokens: number
  /** Tokens per step after the prompt; default all at once. */
  readonly chunk?: number
  /** Tokens per step of the prefill; default 512. */
  readonly prefillChunk?: number
}): Plan {
  whole('tokens', o.tokens, 2, Number.MAX_SAFE_INTEGER, 'Give a longer text.')
  whole('promptTokens', o.promptTokens, 1, o.tokens - 1, 'Leave at least one token to score.')
  const rest = o.tokens - o.promptTokens
  const chunk = o.chunk ?? rest
  whole('chunk', chunk, 1, rest, 'Take a chunk no longer than what follows the prompt.')
  const prefill = cut(0, o.promptTokens, o.prefillChunk ?? 512, 'prompt')
  return {
    protocol: 'E',
    tokens: o.tokens,
    chunk,
    promptTokens: o.promptTokens,
    steps: [
      ...prefill.map((s, i) => (i === prefill.length - 1 ? { ...s, phase: 'promptEnd' as const } : s)),
      ...cut(o.promptTokens, o.tokens, chunk, 'decode'),
    ],
    targets: { from: o.promptTokens, to: o.tokens },
    rows: { from: o.promptTokens, to: o.tokens },
  }
}

/** Steps no longer than a cache's chunk limit; only the last piece of a prompt ends it. */
export function limitSteps(steps: readonly Step[], chunkLimit: number): readonly Step[] {
  return steps.flatMap((s) => {
    if (s.end - s.start <= chunkLimit) return [s]
    const pieces = cut(s.start, s.end, chunkLimit, s.phase === 'promptEnd' ? 'prompt' : s.phase)
    return pieces.map((p, i) => (i === pieces.length - 1 ? { ...p, phase: s.phase } : p))
  })
}

function cut(start: number, end: number, size: number, phase: Phase): Step[] {
  const steps: Step[] = []
  for (let at = start; at < end; at += size) steps.push({ start: at, end: Math.min(end, at + size), phase })
  return steps
}
