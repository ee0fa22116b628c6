/** A text as sequences of one length. */
import { OptionError } from '@kvloom/core'
import type { Tokenizer } from '@kvloom/engine'

/**
 * Consecutive pieces of a text, each behind the start token where the model expects one; what is left at the end is dropped.
 * @param most at most so many, from the beginning; default: all of the text
 * @throws OptionError when the text has not a single piece
 */
export function textSequences(
  text: string,
  tokenizer: Pick<Tokenizer, 'addsBos' | 'bosId' | 'encode' | 'encodeFirst'>,
  { length, most }: { readonly length: number; readonly most?: number },
): Int32Array[] {
  const start = tokenizer.addsBos && tokenizer.bosId !== undefined ? [tokenizer.bosId] : []
  const own = length - start.length
  const plain = { bos: false, special: false }
  const ids = most === undefined ? tokenizer.encode(text, plain) : tokenizer.encodeFirst(text, own * most, plain)
  const count = Math.floor(ids.length / own)
  if (count === 0)
    throw new OptionError(
      'training',
      'text',
      `${ids.length} tokens`,
      `at least ${own}, one sequence`,
      'Give a longer text or ask for shorter sequences.',
    )
  return Array.from({ length: count }, (_, i) => Int32Array.of(...start, ...ids.subarray(i * own, (i + 1) * own)))
}
