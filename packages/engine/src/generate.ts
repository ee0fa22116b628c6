// Generation: prefill, then token after token, greedy or sampled, streamed as ids and text.
import {
  ContextOverflow,
  checkCompressor,
  type KVCache,
  type KVCompressor,
  OptionError,
  openCache,
  type Ready,
  ready,
  refuseUnknown,
} from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { Model } from './model'
import { type PrefillOptions, prefill } from './prefill'
import { uniformRandom } from './random'
import { checkSampling, type SamplingOptions, sample } from './sampling'
import { checkedIds } from './token-ids'

/** Options of `generate`. */
export interface GenerateOptions extends SamplingOptions, Pick<PrefillOptions, 'chunk' | 'signal'> {
  /** At most so many new tokens, from 1. Default 128. */
  readonly maxNewTokens?: number
  /** Seed of the random numbers, a whole number. The same seed gives the same ids. Default 0. */
  readonly seed?: number
  /** Ids that end the text; they are not part of it. Default: the model's own end tokens. */
  readonly stopIds?: readonly number[]
  /** Turn ids into text; false for a model without tokenizer (pieces are then empty). Default true. */
  readonly text?: boolean
  /** Called for each token, before it is yielded. */
  readonly onToken?: (token: GeneratedToken) => void
  /** Called after each chunk of the prompt. */
  readonly onPrefill?: PrefillOptions['onProgress']
}

/** One token of the stream. */
export interface GeneratedToken {
  /** 0 for the first new token. */
  readonly index: number
  readonly id: number
  /** The text this token completes; empty while a character is incomplete. */
  readonly text: string
}

/** How a generation went. */
export interface Generation {
  /** The new tokens. All but the last are in the cache. */
  readonly ids: Int32Array
  /** All text, an incomplete last character as U+FFFD. */
  readonly text: string
  /** 'length': `maxNewTokens` reached; 'stop': a stop id came; 'context': the cache takes no further position. */
  readonly reason: 'length' | 'stop' | 'context'
  readonly promptTokens: number
  readonly prefillMilliseconds: number
  /** Time of the steps after the prompt, sampling included, the consumer's own time between tokens not. */
  readonly decodeMilliseconds: number
}

/**
 * A cache to continue, which stays the caller's and can be looked at afterwards; or a compressor to open one with, which is freed at
 * the end. One that learns comes with its artifacts (`ready()`).
 */
export type GenerateInto = KVCache | KVCompressor | Ready | { readonly compressor: KVCompressor | Ready }

/** A text, which the model's tokenizer encodes (special tokens are taken as text), or token ids of its vocabulary; at least one token. */
export type Prompt = string | Int32Array | readonly number[]

/**
 * Continues a prompt.
 * @param into a cache, which may hold earlier turns; or a compressor
 * @param prompt a text begins with the model's start token, except where it continues what the cache holds
 * @returns yields each new token, returns the summary; leaving the loop early frees what is generate's own. The texts are what the new
 *   tokens add to the text of the prompt
 * @throws OptionError, NotCalibrated, ForwardError('NOT_IDS'), ('BAD_ID'), TokenizerError at once; ContextOverflow before any work; the signal's reason; what `forward` throws
 */
export function generate(
  model: Model,
  into: GenerateInto,
  prompt: Prompt,
  options: GenerateOptions = {},
): AsyncGenerator<GeneratedToken, Generation, void> {
  checkModelGiven(model)
  refuseUnknown('generate', options, OPTIONS)
  const { maxNewTokens = 128, seed = 0, stopIds = model.config.eosIds } = options
  // The model's own end ids were checked when it was loaded.
  check({ maxNewTokens, seed, stopIds: options.stopIds ?? [] }, options, model)
  const opened = intoOf(into)
  return run(model, opened, idsOf(model, opened, prompt), { ...options, maxNewTokens, seed, stopIds })
}

const OPTIONS = [
  'maxNewTokens',
  'temperature',
  'topK',
  'topP',
  'seed',
  'stopIds',
  'text',
  'chunk',
  'signal',
  'onToken',
  'onPrefill',
]

const isCache = (into: KVCache | Ready): into is KVCache => 'attend' in into

/** The ids of a prompt; a text that continues a cache gets no start token. */
function idsOf(model: Model, into: KVCache | Ready, prompt: Prompt): Int32Array {
  if (typeof prompt !== 'string') return checkedIds('generate', prompt, model.config.vocabSize)
  const continues = isCache(into) && into.tokensSeen > 0
  const ids = model.tokenizer.encode(prompt, { special: false, ...(continues ? { bos: false } : {}) })
  if (ids.length === 0) throw new OptionError('generate', 'prompt', prompt, 'a text or token ids, at least one token')
  return ids
}

async function* run(
  model: Model,
  into: KVCache | Ready,
  promptIds: Int32Array,
  options: GenerateOptions & {
    readonly maxNewTokens: number
    readonly seed: number
    readonly stopIds: readonly number[]
  },
): AsyncGenerator<GeneratedToken, Generation, void> {
  const { maxNewTokens, seed, stopIds, signal, onToken } = options
  const random = uniformRandom(seed)
  const stops = new Set(stopIds)
  const cache = isCache(into) ? into : openCache(model, into)
  const own = isCache(into) ? null : cache
  const ids: number[] = []
  let text = ''
  let reason: Generation['reason'] = 'length'
  let decodeMilliseconds = 0
  try {
    const decoder =
      options.text === false ? null : model.tokenizer.stream({ after: promptIds, continues: cache.tokensSeen > 0 })
    const started = performance.now()
    let logits = await prefill(model, cache, promptIds, {
      ...(options.chunk === undefined ? {} : { chunk: options.chunk }),
      ...(signal ? { signal } : {}),
      ...(options.onPrefill ? { onProgress: options.onPrefill } : {}),
    })
    const prefillMilliseconds = performance.now() - started
    for (;;) {
      const stepStarted = performance.now()
      const id = sample(await valuesOf(logits), options, random)
      if (stops.has(id)) {
        reason = 'stop'
        break
      }
      const token = { index: ids.length, id, text: decoder?.push(id) ?? '' }
      ids.push(id)
      text += token.text
      decodeMilliseconds += performance.now() - stepStarted
      onToken?.(token)
      yield token
      if (ids.length === maxNewTokens) break
      signal?.throwIfAborted()
      const forwardStarted = performance.now()
      logits = await decodeStep(model, cache, id)
      decodeMilliseconds += performance.now() - forwardStarted
      if (!logits) {
        reason = 'context'
        break
      }
    }
    text += decoder?.end() ?? ''
    return {
      ids: Int32Array.from(ids),
      text,
      reason,
      promptTokens: promptIds.length,
      prefillMilliseconds,
      decodeMilliseconds,
    }
  } finally {
    own?.dispose()
  }
}

/** Runs a generation to its end. A cache that was given is the caller's still: `cache.bytes()` says what it holds. */
export async function generateAll(
  model: Model,
  into: GenerateInto,
  prompt: Prompt,
  options: GenerateOptions = {},
): Promise<Generation> {
  const stream = generate(model, into, prompt, options)
  for (;;) {
    const next = await stream.next()
    if (next.done) return next.value
  }
}

/** Logits after one more token, or null when the cache takes no further position. */
async function decodeStep(model: Model, cache: KVCache, id: number): Promise<Tensor | null> {
  try {
    return await model.forward(cache, Int32Array.of(id), 'decode')
  } catch (error) {
    if (error instanceof ContextOverflow) return null
    throw error
  }
}

/** Values of logits `[1, vocab]`, which are freed. */
async function valuesOf(logits: Tensor | null): Promise<Float32Array> {
  if (!logits) return new Float32Array(0)
  try {
    return (await logits.data()) as Float32Array
  } finally {
    logits.dispose()
  }
}

/** @throws OptionError for what is no cache and no compressor; NotCalibrated for one that learns and comes without artifacts */
function intoOf(into: GenerateInto): KVCache | Ready {
  const given: unknown = into
  if (typeof given !== 'object' || given === null || !('attend' in given || 'compressor' in given || 'stages' in given))
    throw new OptionError(
      'generate',
      'into',
      typeof given === 'object' && given !== null ? 'an object' : typeof given === 'function' ? 'a function' : given,
      'a cache of openCache(), or a compressor, such as kivi({ bits: 2 })',
      typeof given === 'function' ? 'Call it: a method gives a compressor.' : '',
    )
  if ('attend' in into || 'ready' in into) return into
  const compressor = 'compressor' in into ? into.compressor : into
  if (typeof compressor === 'object' && compressor !== null && 'ready' in compressor) return compressor
  checkCompressor('generate', compressor)
  return ready(compressor)
}

function checkModelGiven(model: Model): void {
  const given: unknown = model
  if (typeof given === 'object' && given !== null && 'forward' in given) return
  throw new OptionError(
    'generate',
    'model',
    typeof given === 'object' && given !== null ? 'an object' : given,
    'a model of loadModel()',
    given instanceof Promise ? 'Write await in front of loadModel().' : '',
  )
}

function check(
  { maxNewTokens, seed, stopIds }: { maxNewTokens: number; seed: number; stopIds: readonly number[] },
  sampling: SamplingOptions,
  model: Model,
): void {
  checkSampling(sampling)
  if (!(Number.isInteger(maxNewTokens) && maxNewTokens >= 1))
    throw new OptionError('generate', 'maxNewTokens', maxNewTokens, 'a whole number from 1')
  if (!Number.isSafeInteger(seed)) throw new OptionError('generate', 'seed', seed, 'a whole number')
  const { vocabSize } = model.config
  if (!Array.isArray(stopIds) || !stopIds.every((id) => Number.isInteger(id) && id >= 0 && id < vocabSize))
    throw new OptionError('generate', 'stopIds', stopIds, `token ids from 0 to ${vocabSize - 1}`)
}
