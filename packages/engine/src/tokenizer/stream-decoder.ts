// Ids to text one by one: bytes of tokens go through one UTF-8 decoder, which holds half a character back.
import { TokenizerError } from '../errors'
import type { TokenizerDescription } from './from-gguf'

/** Turns ids into text one by one. */
export interface StreamDecoder {
  /** The text that this id completes; empty while a character is incomplete. */
  push(id: number): string
  /** What is left at the end; an incomplete character becomes U+FFFD. */
  end(): string
}

/** What a decoder must know. */
export interface StreamSetting {
  /** Special tokens give their text; else none. */
  readonly special: boolean
  /** Ids that stand before the first one pushed; their text is not given again. */
  readonly after: ArrayLike<number>
  /** The stream goes on in the middle of a text, whatever `after` holds. */
  readonly continues: boolean
}

/** A character has at most four bytes, so three incomplete ones may wait; tokens without bytes do not occur often. */
const tail = 16

/**
 * A decoder for one stream of ids. `push` throws `TokenizerError('UNKNOWN_ID')`; an unknown id before the stream has no text.
 * @param bytesOf bytes of a token, undefined for an id that is none
 *
 * Sentencepiece puts a space before a text, and decoding takes it away: only the first word of the text has it, and where ids stand
 * before the stream that word is among them. Literal tokens (special, user-defined) hold no such space.
 */
export function streamDecoder(
  { tokens, spacePrefix, specialIds, literalIds }: TokenizerDescription,
  bytesOf: (id: number) => Uint8Array | undefined,
  { special, after, continues }: StreamSetting,
): StreamDecoder {
  const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
  let dropSpace = spacePrefix && !continues
  const push = (id: number): string => {
    const bytes = bytesOf(id) ?? unknownId(id, tokens.length)
    if (specialIds.has(id)) return special ? utf8.decode(bytes, { stream: true }) : ''
    const dropped = dropSpace && !literalIds.has(id) && bytes[0] === 0x20
    dropSpace = false
    return utf8.decode(dropped ? bytes.subarray(1) : bytes, { stream: true })
  }
  const from = Math.max(0, after.length - tail)
  for (let i = 0; i < from && dropSpace; i++) dropSpace = specialIds.has(after[i] ?? -1)
  for (let i = from; i < after.length; i++) if (bytesOf(after[i] ?? -1)) push(after[i] ?? -1)
  return { push, end: () => utf8.decode() }
}

function unknownId(id: unknown, vocabSize: number): never {
  throw new TokenizerError('UNKNOWN_ID', {
    given: `token id ${typeof id === 'number' ? id : `of type ${typeof id}`}`,
    allowed: `whole numbers from 0 to ${vocabSize - 1}`,
    cure: 'Decode with the tokenizer of the model that made the ids.',
  })
}
