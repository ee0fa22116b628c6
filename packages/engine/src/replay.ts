// Reading the context again, where a stage of the cache wants to see what the model then attends to.
import type { KVCache, Phase } from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'

/** What reading needs of a model. */
export interface Reader {
  readonly tokenizer: { encode(text: string): Int32Array }
  forward(cache: KVCache, ids: Int32Array, phase: Phase, options: { readonly logits: 'none' }): Promise<Tensor | null>
}

/** Tokens of a step: the same as a prompt's. */
const CHUNK = 128

/**
 * Runs the passes that a cache waits for after a prompt, each on a copy that is freed, and lets it go on. Does nothing where none waits.
 * @throws ContextOverflow when context and pass together are longer than the model's context, TokenizerError, what `forward` throws; the
 *   cache then still waits
 */
export async function replayContext(model: Reader, cache: KVCache): Promise<void> {
  const { replay } = cache
  if (!replay) return
  for (const pass of replay.passes((text) => model.tokenizer.encode(text))) {
    const copy = replay.open(pass)
    try {
      for (let from = 0; from < pass.tokens.length; from += CHUNK)
        await model.forward(copy, pass.tokens.subarray(from, from + CHUNK), 'prompt', { logits: 'none' })
    } finally {
      copy.dispose()
    }
  }
  await replay.finish()
}
