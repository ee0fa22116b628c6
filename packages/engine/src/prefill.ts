// Feeds a prompt to a cache, chunk by chunk.
import { ContextOverflow, type KVCache, OptionError, type Phase } from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { WantedLogits } from './llama'
import { checkedIds } from './token-ids'

/** Tokens per step where nothing else is said: longer chunks gain little speed and hold more activations. */
export const defaultChunk = 128

/** What prefill needs of a model. */
export interface PrefillModel {
  readonly config: { readonly vocabSize: number }
  forward(
    cache: KVCache,
    ids: Int32Array,
    phase: Phase,
    options: { readonly logits: WantedLogits },
  ): Promise<Tensor | null>
}

/** What prefill reports after each chunk. */
export interface PrefillProgress {
  /** Tokens done, of `totalTokens`. */
  readonly tokens: number
  readonly totalTokens: number
}

/** Options of `prefill`. */
export interface PrefillOptions {
  /** Tokens per step, from 1; never more than the cache takes at once. Default 128. */
  readonly chunk?: number
  /** Is this the end of the prompt, where stages with `when: 'promptEnd'` act? Default true. */
  readonly endsPrompt?: boolean
  /** 'last' (default), 'none', or a visitor of all rows, whose `from` counts from the first of `ids`. */
  readonly logits?: Exclude<WantedLogits, 'all' | 'hidden'>
  readonly onProgress?: (progress: PrefillProgress) => void
  /** Aborts between two chunks with the signal's reason; the cache then holds the chunks done. */
  readonly signal?: AbortSignal
}

/**
 * Runs a prompt (or a part of one) into the cache.
 * @param given token ids, at least one
 * @returns logits of the last token `[1, vocab]`, the caller's, for 'last'; else null
 * @throws ContextOverflow before any work when the cache would hold more positions than the model's context; OptionError; what `forward` throws
 */
export async function prefill(
  model: PrefillModel,
  cache: KVCache,
  given: ArrayLike<number>,
  options: PrefillOptions = {},
): Promise<Tensor | null> {
  const { chunk = defaultChunk, endsPrompt = true, logits = 'last', onProgress, signal } = options
  if (!(Number.isInteger(chunk) && chunk >= 1))
    throw new OptionError('prefill', 'chunk', chunk, 'a whole number from 1')
  const ids = checkedIds('prefill', given, model.config.vocabSize)
  if (ids.length === 0) throw new OptionError('prefill', 'ids', [], 'at least one token')
  if (ids.length > cache.contextLeft) throw overflow(cache, ids.length)
  for (let from = 0; ; ) {
    signal?.throwIfAborted()
    // What the cache takes may change with every step, as rows are made fewer or dropped.
    const taken = cache.canTake(Math.min(chunk, ids.length - from))
    if (taken === 0) throw overflow(cache, ids.length - from)
    const end = from + taken
    const last = end === ids.length
    const wanted = last || logits !== 'last' ? shifted(logits, from) : 'none'
    const result = await model.forward(cache, ids.subarray(from, end), last && endsPrompt ? 'promptEnd' : 'prompt', {
      logits: wanted,
    })
    try {
      onProgress?.({ tokens: end, totalTokens: ids.length })
    } catch (error) {
      result?.dispose()
      throw error
    }
    if (last) return result
    from = end
  }
}

const overflow = ({ model, contextLeft, contextCure }: KVCache, asked: number): ContextOverflow =>
  new ContextOverflow(
    model.contextLength - Math.min(contextLeft, model.contextLength) + asked,
    model.contextLength,
    contextCure,
  )

function shifted(logits: Exclude<WantedLogits, 'all' | 'hidden'>, by: number): WantedLogits {
  if (typeof logits === 'string') return logits
  return { ...logits, visit: (from, rows) => logits.visit(by + from, rows) }
}
