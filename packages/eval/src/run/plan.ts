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
export interface TokenRange {
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
  readonly targets: TokenRange
  /** Rows whose distribution is compared with the uncompressed run's. */
  readonly rows: TokenRange
}

const whole = (option: string, given: number, min: number, max: number, cure: string): void => {
  if (!Number.isInteger(given) || given < min || given > max)
    throw new EvalOptionError(option, given, `a whole number from ${min} to ${max}`, cure)
}

const LONGER = 'Say how many tokens of the text are used.'

/** @throws EvalOptionError for anything but an object, and for a field that a plan does not have. */
function known(plan: string, given: unknown, fields: readonly string[]): void {
  if (typeof given !== 'object' || given === null)
    throw new EvalOptionError(`${plan}: its settings`, given, `an object of ${fields.join(', ')}`, 'Give { tokens }.')
  // A caller may name the protocol in the same record.
  const wrong = Object.keys(given).find((name) => name !== 'protocol' && !fields.includes(name))
  if (wrong !== undefined)
    throw new EvalOptionError(`${plan}: a setting`, wrong, fields.join(', '), 'Check its spelling.')
}

/** The first quarter of a text is read before anything is scored. */
const quarter = (tokens: number): number => Math.max(1, Math.floor(tokens / 4))

/**
 * Protocol P: the text in chunks of `chunk` tokens (1 = true decoding). A chunk attends to the compressed past and to
 * itself exactly, then it is appended and compressed. Targets are the tokens `scoreFrom .. tokens - 1`.
 */
export function protocolP(o: {
  readonly tokens: number
  /** Default 128, or all tokens where there are fewer. */
  readonly chunk?: number
  /** Default a quarter of the tokens. */
  readonly scoreFrom?: number
}): Plan {
  known('protocolP', o, ['tokens', 'chunk', 'scoreFrom'])
  whole('tokens', o.tokens, 2, Number.MAX_SAFE_INTEGER, LONGER)
  const { tokens, chunk = Math.min(128, tokens), scoreFrom = quarter(tokens) } = o
  whole('chunk', chunk, 1, tokens, 'Take a chunk no longer than the text.')
  whole('scoreFrom', scoreFrom, 1, tokens - 1, 'Leave at least one token to score.')
  return {
    protocol: 'P',
    tokens,
    chunk,
    promptTokens: 0,
    steps: cut(0, tokens, chunk, 'decode'),
    targets: { from: scoreFrom, to: tokens },
    rows: { from: scoreFrom - 1, to: tokens - 1 },
  }
}

/**
 * Protocol E: prefill `promptTokens`, let the end of the prompt evict once, feed the rest in steps of `chunk` over the
 * compressed cache. All ids after the prompt are targets (the first is predicted by the exact prefill); distributions
 * are compared on every row after the prompt.
 */
export function protocolE(o: {
  readonly tokens: number
  /** Default two thirds of the tokens. */
  readonly promptTokens?: number
  /** Tokens per step after the prompt. Default all at once. */
  readonly chunk?: number
  /** Tokens per step of the prefill. Default 512. */
  readonly prefillChunk?: number
}): Plan {
  known('protocolE', o, ['tokens', 'promptTokens', 'chunk', 'prefillChunk'])
  whole('tokens', o.tokens, 2, Number.MAX_SAFE_INTEGER, LONGER)
  const { tokens, promptTokens = Math.floor((tokens * 2) / 3), prefillChunk = 512 } = o
  whole('promptTokens', promptTokens, 1, tokens - 1, 'Leave at least one token to score.')
  whole('prefillChunk', prefillChunk, 1, Number.MAX_SAFE_INTEGER, 'Take a step of some tokens.')
  const rest = tokens - promptTokens
  const { chunk = rest } = o
  whole('chunk', chunk, 1, rest, 'Take a chunk no longer than what follows the prompt.')
  const prefill = cut(0, promptTokens, prefillChunk, 'prompt')
  return {
    protocol: 'E',
    tokens,
    chunk,
    promptTokens,
    steps: [
      ...prefill.map((s, i) => (i === prefill.length - 1 ? { ...s, phase: 'promptEnd' as const } : s)),
      ...cut(promptTokens, tokens, chunk, 'decode'),
    ],
    targets: { from: promptTokens, to: tokens },
    rows: { from: promptTokens, to: tokens },
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
  /** Default a quarter of the tokens, and less than `scoreTo`. */
  readonly scoreFrom?: number
  /** Default all tokens. */
  readonly scoreTo?: number
  /** Default all tokens. */
  readonly promptTokens?: number
  /** Tokens per step. Default 512, or all tokens where there are fewer. */
  readonly chunk?: number
}): Plan {
  known('protocolW', o, ['tokens', 'scoreFrom', 'scoreTo', 'promptTokens', 'chunk'])
  whole('tokens', o.tokens, 2, Number.MAX_SAFE_INTEGER, LONGER)
  const { tokens, scoreTo = tokens, promptTokens = tokens, chunk = Math.min(512, tokens) } = o
  if (o.scoreFrom === undefined) whole('scoreTo', scoreTo, 2, tokens, 'Score at least one token of the text.')
  const { scoreFrom = Math.min(quarter(tokens), scoreTo - 1) } = o
  whole('scoreFrom', scoreFrom, 1, tokens - 1, 'Leave at least one token to score.')
  whole('scoreTo', scoreTo, scoreFrom + 1, tokens, 'Score at least one token of the text.')
  whole('promptTokens', promptTokens, 1, tokens, 'Take a prompt no longer than the text.')
  whole('chunk', chunk, 1, tokens, 'Take a chunk no longer than the text.')
  const prompt = cut(0, promptTokens, chunk, 'prompt')
  return {
    protocol: 'W',
    tokens,
    chunk,
    promptTokens,
    steps: [
      ...prompt.map((s, i) => (i === prompt.length - 1 ? { ...s, phase: 'promptEnd' as const } : s)),
      ...cut(promptTokens, tokens, chunk, 'decode'),
    ],
    targets: { from: scoreFrom, to: scoreTo },
    rows: { from: scoreFrom - 1, to: scoreTo - 1 },
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

/**
 * Runs steps in pieces that a cache takes.
 * @param canTake asked before each piece how many of so many tokens the cache takes now (`KVCache.canTake`), since that depends on what
 *   is stored; where it takes none, one token is run, and the cache says why it refuses it
 */
export async function runLimited(
  steps: readonly Step[],
  canTake: (tokens: number) => number,
  run: (step: Step) => Promise<void>,
): Promise<void> {
  for (const step of steps)
    for (let rest: Step | null = step; rest; ) {
      const [piece, left]: readonly [Step, Step | null] = limitStep(rest, Math.max(1, canTake(rest.end - rest.start)))
      await run(piece)
      rest = left
    }
}

function cut(start: number, end: number, size: number, phase: Phase): Step[] {
  const steps: Step[] = []
  for (let at = start; at < end; at += size) steps.push({ start: at, end: Math.min(end, at + size), phase })
  return steps
}
