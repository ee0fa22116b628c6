// Reading the context again, where a stage of the cache wants to see what the model then attends to.
import type { KVCache } from '@kvloom/core'
import { type PrefillModel, prefill } from './prefill'

/** What reading needs of a model. */
export interface Reader extends PrefillModel {
  readonly tokenizer: { encode(text: string): Int32Array }
}

/**
 * Runs the passes that a cache waits for after a prompt, each on a copy that is freed, and lets it go on. Does nothing where none waits.
 * @throws ContextOverflow when context and pass together are longer than the model's context, TokenizerError, what `prefill` throws; the
 *   cache then still waits
 */
export async function replayContext(model: Reader, cache: KVCache): Promise<void> {
  const { replay } = cache
  if (!replay) return
  for (const pass of replay.passes((text) => model.tokenizer.encode(text))) {
    const copy = replay.open(pass)
    try {
      await prefill(model, copy, pass.tokens, { endsPrompt: false, logits: 'none' })
    } finally {
      copy.dispose()
    }
  }
  await replay.finish()
}
