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
  readonly protocol: 'P' | 'E' | 'W'
  readonly tokens: number
  readonly chunk: number
  /** Protocol E: tokens before the eviction; W: tokens of the prompt; P: 0. */
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

/**
 * Protocol W, for methods that replace keys and values before anything reads them (weights, ranks, channels, layers):
 * the text is one prompt, and a compressor with `ownRows: 'stored'` attends to what it stored from the first token on.
 * Targets are the tokens `scoreFrom .. scoreTo - 1`; tokens behind them are fed for the bytes at that length only.
 * With `promptTokens` the prompt ends earlier (ThinK chooses its channels there) and the rest follows in steps.
 */
export function protocolW(o: {
  readonly tokens: number
  readonly scoreFrom: number
  /** Default all tokens. */
  readonly scoreTo?: number
  /** Default all tokens. */
  readonly promptTokens?: number
  /** Tokens per step; default 512. */
  readonly chunk?: number
}): Plan {
  whole('tokens', o.tokens, 2, Number.MAX_SAFE_INTEGER, 'Give a longer text.')
  whole('scoreFrom', o.scoreFrom, 1, o.tokens - 1, 'Leave at least one token to score.')
  const { scoreTo = o.tokens, promptTokens = o.tokens } = o
  whole('scoreTo', scoreTo, o.scoreFrom + 1, o.tokens, 'Score at least one token of the text.')
  whole('promptTokens', promptTokens, 1, o.tokens, 'Take a prompt no longer than the text.')
  const chunk = o.chunk ?? Math.min(512, o.tokens)
  whole('chunk', chunk, 1, o.tokens, 'Take a chunk no longer than the text.')
  const prompt = cut(0, promptTokens, chunk, 'prompt')
  return {
    protocol: 'W',
    tokens: o.tokens,
    chunk,
    promptTokens,
    steps: [
      ...prompt.map((s, i) => (i === prompt.length - 1 ? { ...s, phase: 'promptEnd' as const } : s)),
      ...cut(promptTokens, o.tokens, chunk, 'decode'),
    ],
    targets: { from: o.scoreFrom, to: scoreTo },
    rows: { from: o.scoreFrom - 1, to: scoreTo - 1 },
  }
}

/** The first piece of a step that a cache takes now, and what is left of it; only the last piece of a prompt ends it. */
export function limitStep(step: Step, chunkLimit: number): readonly [Step, Step | null] {
  if (step.end - step.start <= chunkLimit) return [step, null]
  const end = step.start + chunkLimit
  return [
    { start: step.start, end, phase: step.phase === 'promptEnd' ? 'prompt' : step.phase },
    { ...step, start: end },
  ]
}

/** Runs steps in pieces that a cache takes; its limit is asked before each piece, since it may depend on what is stored. */
export async function runLimited(
  steps: readonly Step[],
  chunkLimit: () => number,
  run: (step: Step) => Promise<void>,
): Promise<void> {
  for (const step of steps)
    for (let rest: Step | null = step; rest; ) {
      const [piece, left]: readonly [Step, Step | null] = limitStep(rest, chunkLimit())
      await run(piece)
      rest = left
    }
}

function cut(start: number, end: number, size: number, phase: Phase): Step[] {
  const steps: Step[] = []
  for (let at = start; at < end; at += size) steps.push({ start: at, end: Math.min(end, at + size), phase })
  return steps
}
