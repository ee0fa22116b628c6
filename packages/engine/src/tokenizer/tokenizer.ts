// Text to ids and back. Merging is @huggingface/tokenizers; around it: long texts in parts, ids to bytes (so that streams can hold
// back half a character), chat templates, and the facts about tokens that compressors ask for.
import { Template } from '@huggingface/jinja'
import { Tokenizer as Library } from '@huggingface/tokenizers'
import { TokenizerError } from '../errors'
import type { TokenizerFiles } from '../models/model-files'
import { describeGguf, type TokenizerDescription } from './from-gguf'
import { describeTokenizerJson } from './from-tokenizer-json'
import { byteLevelBytes, sentencepieceBytes } from './token-bytes'

/** Options of `encode` and `encodeFirst`. */
export interface EncodeOptions {
  /** Special tokens written out in the text (`<|im_end|>`) become their ids; otherwise they are ordinary text. Default true. */
  readonly special?: boolean
  /** Put the start token first. Default: what the model's file says (`addsBos`). */
  readonly bos?: boolean
}

/** Options of `decode` and `stream`. */
export interface DecodeOptions {
  /** Write special tokens out; otherwise they give no text. Default true. */
  readonly special?: boolean
}

/** One message of a chat. */
export interface ChatMessage {
  readonly role: string
  readonly content: string
}

/** Turns ids into text one by one. */
export interface StreamDecoder {
  /** The text that this id completes; empty while a character is incomplete. */
  push(id: number): string
  /** What is left at the end; an incomplete character becomes U+FFFD. */
  end(): string
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
  /** Ids of the text; empty text gives no ids (but the start token where asked for). */
  encode(text: string, options?: EncodeOptions): Int32Array
  /** The first `count` ids of `encode(text)`, without tokenizing all of a long text. */
  encodeFirst(text: string, count: number, options?: EncodeOptions): Int32Array
  /** Text of the ids; bytes that are no UTF-8 become U+FFFD. Throws `TokenizerError('unknown-id')`. */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string
  /** A decoder for one stream of ids. */
  stream(options?: DecodeOptions): StreamDecoder
  /** The chat as the text the model was trained on. Throws `TokenizerError('no-chat-template')` or `('bad-chat-template')`. */
  applyChatTemplate(messages: readonly ChatMessage[], options?: { readonly addGenerationPrompt?: boolean }): string
  /** Facts about tokens, computed at the first call. */
  tokenFacts(): TokenizerFacts
}

/** Texts are merged in parts of about this many characters. */
const partLength = 1 << 14

/** Makes a tokenizer from what `ModelFiles.tokenizer()` gives. Throws `TokenizerError`. */
export function createTokenizer(files: TokenizerFiles): Tokenizer {
  return new LibraryTokenizer(
    files.kind === 'gguf' ? describeGguf(files.metadata) : describeTokenizerJson(files.tokenizer, files.config),
  )
}

class LibraryTokenizer implements Tokenizer {
  readonly vocabSize: number
  readonly bosId: number | undefined
  readonly eosId: number | undefined
  readonly addsBos: boolean
  readonly chatTemplate: string | undefined
  private readonly withSpecial: Library
  private withoutSpecial: Library | undefined
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
    this.withSpecial = makeLibrary(description.json)
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

  encodeFirst(text: string, count: number, { special = true, bos = this.addsBos }: EncodeOptions = {}): Int32Array {
    if (!(count >= 0)) throw new RangeError(`encodeFirst: count ${count}; allowed: 0 or more`)
    const ids: number[] = bos && this.bosId !== undefined ? [this.bosId] : []
    if (!special) this.withoutSpecial ??= makeLibrary(withoutSpecialTokens(this.description))
    const library = (special ? undefined : this.withoutSpecial) ?? this.withSpecial
    let at = 0
    while (at < text.length && ids.length < count) {
      const end = this.cut(text, at + partLength)
      // The space that begins a later part is the one the normalizer would put there.
      const part = text.slice(this.prepends && at > 0 ? at + 1 : at, end)
      for (const id of library.encode(part, { add_special_tokens: false }).ids) ids.push(checkId(id, part))
      at = end
    }
    return Int32Array.from(ids.length > count ? ids.slice(0, count) : ids)
  }

  /** The first place at or after `from` where the text may be cut. */
  private cut(text: string, from: number): number {
    if (!this.cuttable || this.literalPattern?.test(text)) return text.length
    for (let at = Math.max(from, 1); at < text.length - 1; at++) {
      if (text[at] === ' ' && /[A-Za-z0-9]/.test(text[at - 1] ?? '') && /[A-Za-z]/.test(text[at + 1] ?? '')) return at
    }
    return text.length
  }

  decode(ids: ArrayLike<number>, options?: DecodeOptions): string {
    const stream = this.stream(options)
    let text = ''
    for (let i = 0; i < ids.length; i++) text += stream.push(ids[i] ?? -1)
    return text + stream.end()
  }

  stream({ special = true }: DecodeOptions = {}): StreamDecoder {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
    let dropSpace = this.description.spacePrefix
    return {
      push: (id) => {
        let bytes = this.tokenBytes(id)
        if (this.description.specialIds.has(id)) return special ? decoder.decode(bytes, { stream: true }) : ''
        if (dropSpace && bytes[0] === 0x20) bytes = bytes.subarray(1)
        dropSpace = false
        return decoder.decode(bytes, { stream: true })
      },
      end: () => decoder.decode(),
    }
  }

  /** The bytes a token stands for. */
  private tokenBytes(id: number): Uint8Array {
    const known = this.bytes[id]
    if (known) return known
    const { tokens, literalIds, spelling } = this.description
    const token = tokens[id]
    if (token === undefined) {
      throw new TokenizerError('unknown-id', {
        given: `token id ${id}`,
        allowed: `0 to ${tokens.length - 1}`,
        cure: 'Decode with the tokenizer of the model that made the ids.',
      })
    }
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
      throw new TokenizerError('no-chat-template', {
        given: 'a chat',
        allowed: 'plain text: this model has no chat template',
        cure: 'Use encode with text, or an instruction-tuned model.',
      })
    }
    const { tokens, bosId, eosId } = this.description
    try {
      return new Template(this.chatTemplate).render({
        messages: messages.map(({ role, content }) => ({ role, content })),
        add_generation_prompt: addGenerationPrompt,
        bos_token: bosId === undefined ? '' : tokens[bosId],
        eos_token: eosId === undefined ? '' : tokens[eosId],
      })
    } catch (cause) {
      throw new TokenizerError('bad-chat-template', {
        given: `${messages.length} messages that the model's chat template refuses (${cause instanceof Error ? cause.message : String(cause)})`,
        allowed: 'the roles and the order the template knows',
        cure: 'Change the messages, or use encode with text.',
        cause,
      })
    }
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
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.tokenBytes(id))
  }
}

/** Stands where the vocabulary has no unknown token, so that characters it cannot spell are noticed (`checkId`) and not dropped. */
const unspellable = '\u0000 unspellable'

function makeLibrary(json: Readonly<Record<string, unknown>>): Library {
  const model = json['model'] as Readonly<Record<string, unknown>>
  try {
    return new Library({ ...json, model: { ...model, unk_token: model['unk_token'] ?? unspellable } }, {})
  } catch (cause) {
    throw new TokenizerError('bad-tokenizer', {
      given: `a tokenizer the library refuses (${cause instanceof Error ? cause.message : String(cause)})`,
      allowed: 'a BPE tokenizer',
      cure: 'Fetch the model again, or use another file of it.',
      cause,
    })
  }
}

function withoutSpecialTokens({ json, specialIds }: TokenizerDescription): Record<string, unknown> {
  const added = json['added_tokens']
  return {
    ...json,
    added_tokens: Array.isArray(added)
      ? added.filter((each: { id?: unknown }) => !specialIds.has(Number(each.id)))
      : [],
  }
}

function checkId(id: number | undefined, part: string): number {
  if (id !== undefined) return id
  throw new TokenizerError('bad-tokenizer', {
    given: `text with characters the vocabulary cannot spell, near ${JSON.stringify(part.slice(0, 40))}`,
    allowed: 'text in the alphabet of the tokenizer',
    cure: 'Use a tokenizer with all bytes or an unknown token.',
  })
}
