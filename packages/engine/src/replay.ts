// Reading the context again, where a stage of the cache wants to see what the model then attends to.
import type { KVCache } from '@kvloom/core'
import { type PrefillModel, prefill } from './prefill'
import { beforeAnswer } from './tokenizer/before-answer'
import type { Tokenizer } from './tokenizer/tokenizer'

/** What reading needs of a model. */
export interface Reader extends PrefillModel {
  readonly tokenizer: Pick<Tokenizer, 'encode' | 'chatTemplate' | 'applyChatTemplate'>
}

/**
 * Runs the passes that a cache waits for, each on a copy that is freed, and lets it go on. Does nothing where none waits.
 * @throws ContextOverflow when context and pass together are longer than the model's context, TokenizerError, what `prefill` throws; the
 *   cache then still waits
 */
export async function replayContext(model: Reader, cache: KVCache): Promise<void> {
  const { replay } = cache
  if (!replay) return
  // A model without a tokenizer can repeat its context too; it is asked for only where a text is encoded.
  const texts = {
    encode: (text: string) => model.tokenizer.encode(text, { bos: false }),
    beforeAnswer: () => beforeAnswer(model.tokenizer),
  }
  for (const pass of replay.passes(texts)) {
    const copy = replay.open(pass)
    try {
      await prefill(model, copy, pass.tokens, { endsPrompt: false, logits: 'none' })
    } finally {
      copy.dispose()
    }
  }
  await replay.finish()
}
