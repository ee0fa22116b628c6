// Text to ids and back. Merging is @huggingface/tokenizers (`library.ts`); around it: long texts in parts, ids to bytes (so that streams can hold
// back half a character), chat templates, and the facts about tokens that compressors ask for.
import { TokenizerError } from '../errors'
import type { TokenizerFiles } from '../models/model-files'
import { type ChatMessage, renderChat } from './chat-template'
import { describeGguf, type TokenizerDescription } from './from-gguf'
import { describeTokenizerJson } from './from-tokenizer-json'
import { encoderOf } from './library'
import { SpecialText } from './special-text'
import { type StreamDecoder, streamDecoder } from './stream-decoder'
import { byteLevelBytes, sentencepieceBytes } from './token-bytes'

/** Options of `encode` and `encodeFirst`. */
export interface EncodeOptions {
  /** Special tokens written out in the text (`<|im_end|>`) become their ids; otherwise they are ordinary text. Default true. */
  readonly special?: boolean
  /** Put the start token first, unless the text begins with it. Default: what the model's file says (`addsBos`). */
  readonly bos?: boolean
}

/** Options of `decode`. */
export interface DecodeOptions {
  /** Write special tokens out; otherwise they give no text. Default true. */
  readonly special?: boolean
}

/** Options of `stream`. */
export interface StreamOptions extends DecodeOptions {
  /**
   * Ids before the stream: a prompt. The pieces are then what decoding prompt and stream together adds to the prompt's text: the space
   * before a continued word stays, and a character that the prompt left incomplete is completed. Default none.
   */
  readonly after?: ArrayLike<number>
  /** The text has begun earlier still, in ids that are not at hand; a leading space stays in any case. Default false. */
  readonly continues?: boolean
}

/** What compressors may ask about tokens; ids in ascending order. */
export interface TokenizerFacts {
  readonly vocabSize: number
  readonly bosId: number | undefined
  readonly eosId: number | undefined
  /** Start, end, padding, role markers: tokens without text. */
  readonly specialIds: readonly number[]
  /** Tokens whose text is punctuation or symbols only, apart from spaces around it, and at least one of them. */
  readonly punctuationIds: readonly number[]
  /** Tokens whose text is white space only. */
  readonly whitespaceIds: readonly number[]
  /** Tokens with a line break. */
  readonly newlineIds: readonly number[]
}

/** A tokenizer. */
export interface Tokenizer {
  readonly vocabSize: number
  readonly bosId: number | undefined
  readonly eosId: number | undefined
  /** Does the model expect the start token before a text? */
  readonly addsBos: boolean
  /** The template's text, if the model has one. */
  readonly chatTemplate: string | undefined
  /**
   * Ids of the text; empty text gives no ids (but the start token where asked for).
   * Throws `TokenizerError('BAD_INPUT')` for what is no text, `('BAD_TOKENIZER')` for characters the vocabulary cannot spell.
   */
  encode(text: string, options?: EncodeOptions): Int32Array
  /** The first `count` ids of `encode(text)`, without tokenizing all of a long text. */
  encodeFirst(text: string, count: number, options?: EncodeOptions): Int32Array
  /** Text of the ids; bytes that are no UTF-8 become U+FFFD. Throws `TokenizerError('UNKNOWN_ID')`, `('BAD_INPUT')` for what is no list. */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string
  /** A decoder for one stream of ids. */
  stream(options?: StreamOptions): StreamDecoder
  /**
   * The chat as the text the model was trained on, for `encode`. A special token that a message spells out stays text: it has the
   * noncharacter U+FDD0 after its first character, which `encode` takes out again.
   * Throws `TokenizerError('NO_CHAT_TEMPLATE')`, `('BAD_CHAT_TEMPLATE')`, or `('BAD_INPUT')` for what are no messages.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options?: { readonly addGenerationPrompt?: boolean }): string
  /** Facts about tokens, computed at the first call. */
  tokenFacts(): TokenizerFacts
}

/** Texts are merged in parts of about this many characters. */
const partLength = 1 << 14

/** Makes a tokenizer from what `ModelFiles.tokenizer()` gives. Throws `TokenizerError`. */
export function createTokenizer(files: TokenizerFiles): Tokenizer {
  try {
    return new LibraryTokenizer(
      files.kind === 'gguf' ? describeGguf(files.metadata) : describeTokenizerJson(files.tokenizer, files.config),
    )
  } catch (cause) {
    if (cause instanceof TokenizerError) throw cause
    // What is nested too deep, or of a kind that nobody expects there, fails somewhere inside.
    throw new TokenizerError('BAD_TOKENIZER', {
      given: `a tokenizer that cannot be read (${cause instanceof Error ? cause.message : String(cause)})`,
      allowed: 'the tokenizer of a GGUF file, or a tokenizer.json',
      cure: 'Fetch the model again, or use another file of it.',
      cause,
    })
  }
}

class LibraryTokenizer implements Tokenizer {
  readonly vocabSize: number
  readonly bosId: number | undefined
  readonly eosId: number | undefined
  readonly addsBos: boolean
  readonly chatTemplate: string | undefined
  private readonly idsOf: (part: string) => number[]
  private readonly specialText: SpecialText
  private readonly literalPattern: RegExp | undefined
  private readonly cuttable: boolean
  private readonly prepends: boolean
  private readonly bytes: (Uint8Array | undefined)[] = []
  private facts: TokenizerFacts | undefined

  constructor(private readonly description: TokenizerDescription) {
    const { tokens, literalIds } = description
    this.vocabSize = tokens.length
    this.bosId = description.bosId
    this.eosId = description.eosId
    this.addsBos = description.addsBos && description.bosId !== undefined
    this.chatTemplate = description.chatTemplate
    this.specialText = new SpecialText(description)
    this.idsOf = encoderOf(this.specialText.json)
    const space = description.spelling === 'byte-level' ? 'Ġ' : '▁'
    // A text may be cut before the space between two words if no token reaches over such a place.
    const reachesOver = new RegExp(`[A-Za-z0-9]${space}`)
    this.cuttable = !tokens.some((token, id) => !literalIds.has(id) && reachesOver.test(token))
    this.prepends = JSON.stringify(description.json['normalizer'] ?? null).includes('"Prepend"')
    const literals = [...literalIds].map((id) => tokens[id] ?? '').filter((token) => token.includes(' '))
    this.literalPattern = literals.length
      ? new RegExp(literals.map((token) => token.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')).join('|'))
      : undefined
  }

  encode(text: string, options?: EncodeOptions): Int32Array {
    return this.encodeFirst(text, Infinity, options)
  }

  encodeFirst(given: string, count: number, { special = true, bos = this.addsBos }: EncodeOptions = {}): Int32Array {
    if (typeof given !== 'string') refuseInput('encode', given, 'a text')
    if (!(count >= 0)) refuseInput('encodeFirst', count, 'a count of 0 or more')
    const text = this.specialText.prepare(given, special)
    const ids: number[] = []
    let at = 0
    while (at < text.length && ids.length < count) {
      const end = this.cut(text, at + partLength)
      // The space that begins a later part is the one the normalizer would put there.
      const part = text.slice(this.prepends && at > 0 ? at + 1 : at, end)
      for (const id of this.idsOf(part)) ids.push(id)
      at = end
    }
    // A chat template may have written the start token; one is enough.
    if (bos && this.bosId !== undefined && ids[0] !== this.bosId) ids.unshift(this.bosId)
    return Int32Array.from(ids.length > count ? ids.slice(0, Math.floor(count)) : ids)
  }

  /** The first place at or after `from` where the text may be cut. */
  private cut(text: string, from: number): number {
    if (!this.cuttable || this.literalPattern?.test(text)) return text.length
    for (let at = Math.max(from, 1); at < text.length - 1; at++) {
      if (text[at] === ' ' && /[A-Za-z0-9]/.test(text[at - 1] ?? '') && /[A-Za-z]/.test(text[at + 1] ?? '')) return at
    }
    return text.length
  }

  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    checkList('decode', ids)
    const stream = this.stream(options)
    let text = ''
    for (let i = 0; i < ids.length; i++) text += stream.push(ids[i] ?? -1)
    return text + stream.end()
  }

  stream({ special = true, after = [], continues = false }: StreamOptions = {}): StreamDecoder {
    checkList('stream', after)
    return streamDecoder(this.description, (id) => this.tokenBytes(id), { special, after, continues })
  }

  /** The bytes a token stands for; undefined for an id that is none. */
  private tokenBytes(id: number): Uint8Array | undefined {
    const known = this.bytes[id]
    if (known) return known
    const { tokens, literalIds, spelling } = this.description
    const token = typeof id === 'number' ? tokens[id] : undefined
    if (token === undefined) return undefined
    const bytes = literalIds.has(id)
      ? new TextEncoder().encode(token)
      : spelling === 'byte-level'
        ? byteLevelBytes(token)
        : sentencepieceBytes(token)
    this.bytes[id] = bytes
    return bytes
  }

  applyChatTemplate(
    messages: readonly ChatMessage[],
    { addGenerationPrompt = true }: { readonly addGenerationPrompt?: boolean } = {},
  ): string {
    if (this.chatTemplate === undefined) {
      throw new TokenizerError('NO_CHAT_TEMPLATE', {
        given: 'a chat',
        allowed: 'plain text: this model has no chat template',
        cure: 'Use encode with text, or an instruction-tuned model.',
      })
    }
    if (!Array.isArray(messages)) refuseInput('applyChatTemplate', messages, 'a list of messages')
    const { tokens, bosId, eosId } = this.description
    const protectedMessages = messages.map((message: Partial<ChatMessage> | null, index) => {
      const { role, content } = message ?? {}
      if (typeof role !== 'string' || typeof content !== 'string')
        return refuseInput('applyChatTemplate', message, `a role and a content, both texts, in message ${index}`)
      return { role: this.specialText.protect(role), content: this.specialText.protect(content) }
    })
    return renderChat(this.chatTemplate, {
      messages: protectedMessages,
      addGenerationPrompt,
      bosToken: bosId === undefined ? '' : (tokens[bosId] ?? ''),
      eosToken: eosId === undefined ? '' : (tokens[eosId] ?? ''),
    })
  }

  tokenFacts(): TokenizerFacts {
    if (this.facts) return this.facts
    const { tokens, specialIds } = this.description
    const ids = (matches: (text: string) => boolean) =>
      tokens.flatMap((token, id) =>
        token !== undefined && !specialIds.has(id) && matches(this.tokenText(id)) ? [id] : [],
      )
    this.facts = {
      vocabSize: this.vocabSize,
      bosId: this.bosId,
      eosId: this.eosId,
      specialIds: [...specialIds].sort((a, b) => a - b),
      punctuationIds: ids((text) => /^\s*[\p{P}\p{S}][\p{P}\p{S}\s]*$/u.test(text) && !text.includes('\ufffd')),
      whitespaceIds: ids((text) => /^\s+$/.test(text)),
      newlineIds: ids((text) => text.includes('\n')),
    }
    return this.facts
  }

  private tokenText(id: number): string {
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.tokenBytes(id) ?? new Uint8Array())
  }
}

function checkList(where: string, ids: unknown): void {
  if (Array.isArray(ids) || (ArrayBuffer.isView(ids) && !(ids instanceof DataView))) return
  refuseInput(where, ids, 'a list of token ids')
}

function refuseInput(where: string, given: unknown, allowed: string): never {
  throw new TokenizerError('BAD_INPUT', {
    given: `${where} of ${describe(given)}`,
    allowed,
    cure: 'Texts go into encode, ids into decode and stream, messages into applyChatTemplate.',
  })
}

/** What was given, in a few words. */
function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 40))
  if (typeof value === 'function') return 'a function'
  if (Array.isArray(value)) return 'a list'
  return typeof value === 'object' && value !== null ? 'an object' : String(value)
}
