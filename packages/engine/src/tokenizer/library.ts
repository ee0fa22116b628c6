// @huggingface/tokenizers behind one function: text of one part to ids, whatever goes wrong as a typed error.
import { Tokenizer as Library } from '@huggingface/tokenizers'
import { TokenizerError } from '../errors'

/** Stands where the vocabulary has no unknown token, so that characters it cannot spell are noticed and not dropped. */
const unspellable = '\u0000 unspellable'

/** A function from text to ids, without a start token. Both steps throw `TokenizerError('BAD_TOKENIZER')`. */
export function encoderOf(json: Readonly<Record<string, unknown>>): (part: string) => number[] {
  const model = json['model'] as Readonly<Record<string, unknown>>
  const library = checked(
    () => new Library({ ...json, model: { ...model, unk_token: model['unk_token'] ?? unspellable } }, {}),
    'a tokenizer the library refuses',
    'a BPE tokenizer',
  )
  return (part) => {
    const ids: readonly (number | undefined)[] = checked(
      () => library.encode(part, { add_special_tokens: false }).ids,
      `a tokenizer that fails near ${JSON.stringify(part.slice(0, 40))}`,
      'a tokenizer that takes any text',
    )
    return ids.map((id) => id ?? cannotSpell(part))
  }
}

function checked<T>(run: () => T, what: string, allowed: string): T {
  try {
    return run()
  } catch (cause) {
    throw new TokenizerError('BAD_TOKENIZER', {
      given: `${what} (${cause instanceof Error ? cause.message : String(cause)})`,
      allowed,
      cure: 'Fetch the model again, or use another file of it.',
      cause,
    })
  }
}

function cannotSpell(part: string): never {
  throw new TokenizerError('BAD_TOKENIZER', {
    given: `text with characters the vocabulary cannot spell, near ${JSON.stringify(part.slice(0, 40))}`,
    allowed: 'text in the alphabet of the tokenizer',
    cure: 'Use a tokenizer with all bytes or an unknown token.',
  })
}
