// The tokenizer of a GGUF file as a tokenizer.json, so that one library serves both: byte-level BPE ("gpt2") and
// sentencepiece BPE with scores ("llama").
import { TokenizerError } from '../errors'
import type { GgufValue } from '../files/gguf'
import { endIdsByText } from '../models/end-ids'
import { preTokenizers } from './pre-tokenizers'

/** A tokenizer in one shape, wherever it came from. */
export interface TokenizerDescription {
  /** What `@huggingface/tokenizers` takes. */
  readonly json: Readonly<Record<string, unknown>>
  /** Token texts by id; byte-level or sentencepiece spelling. */
  readonly tokens: readonly string[]
  /** How a token's text stands for bytes. */
  readonly spelling: 'byte-level' | 'sentencepiece'
  /** Ids that stand for no text: start, end, padding, roles. */
  readonly specialIds: ReadonlySet<number>
  /** Ids whose text is taken as it is, not spelled: special and user-defined tokens. */
  readonly literalIds: ReadonlySet<number>
  /** A space is put before the text when encoding, and dropped when decoding. */
  readonly spacePrefix: boolean
  readonly bosId: number | undefined
  readonly eosId: number | undefined
  readonly addsBos: boolean
  readonly chatTemplate: string | undefined
}

/** llama.cpp's token types. */
const kinds = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 }

const fix = 'Use a GGUF file with a whole tokenizer, or the tokenizer.json of the model.'
const refuse = (given: string, allowed: string): never => {
  throw new TokenizerError('BAD_TOKENIZER', { given, allowed, cure: fix })
}

/** Reads `tokenizer.*` of GGUF metadata. Throws `TokenizerError`. */
export function describeGguf(metadata: ReadonlyMap<string, GgufValue>): TokenizerDescription {
  const get = (key: string) => metadata.get(`tokenizer.ggml.${key}`)
  const model = get('model')
  const tokens = get('tokens')
  if (!Array.isArray(tokens) || tokens.length === 0 || !tokens.every((each) => typeof each === 'string'))
    return refuse('a GGUF file without tokenizer.ggml.tokens', 'a list of tokens')
  const types = get('token_type')
  // Tokens that end a turn are control tokens, whatever a converter wrote down; llama.cpp corrects them likewise.
  const ends = new Set(endIdsByText(tokens))
  const typeOf = (id: number) => (ends.has(id) ? kinds.control : Array.isArray(types) ? types[id] : kinds.normal)
  if (Array.isArray(types) && types.length !== tokens.length)
    return refuse(`${types.length} token types for ${tokens.length} tokens`, 'one for each token')
  const ids = (...wanted: number[]) =>
    new Set(tokens.flatMap((_, id) => (wanted.includes(Number(typeOf(id))) ? [id] : [])))
  const special = ids(kinds.control, kinds.unknown)
  const template = metadata.get('tokenizer.chat_template')
  const addBos = get('add_bos_token')
  const addSpace = get('add_space_prefix')
  const isId = (value: unknown): value is number => Number.isInteger(value) && tokens[Number(value)] !== undefined
  const idOf = (key: string) => {
    const value = get(key)
    if (value === undefined || isId(value)) return value
    return refuse(`tokenizer.ggml.${key} = ${String(value)}`, `an id below ${tokens.length}`)
  }
  const eosId = get('eos_token_id')
  const addedTokens = (literal: ReadonlySet<number>) =>
    [...literal].map((id) => ({
      id,
      content: tokens[id],
      special: special.has(id),
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    }))
  const common = {
    tokens,
    specialIds: special,
    bosId: idOf('bos_token_id'),
    // A model runs without an end token; that this one is none is said when it is loaded (`end-ids.ts`).
    eosId: isId(eosId) ? eosId : undefined,
    chatTemplate: typeof template === 'string' ? template : undefined,
  }
  if (model === 'gpt2') {
    const pre = get('pre') ?? 'default'
    const known = typeof pre === 'string' ? preTokenizers.get(pre) : undefined
    if (!known) {
      throw new TokenizerError('UNSUPPORTED_TOKENIZER', {
        given: `the pre-tokenizer "${String(pre)}"`,
        allowed: [...preTokenizers.keys()].join(', '),
        cure: 'Use the tokenizer.json of the model.',
      })
    }
    const literal = ids(kinds.control, kinds.userDefined)
    return {
      ...common,
      spelling: 'byte-level',
      literalIds: literal,
      spacePrefix: false,
      addsBos: typeof addBos === 'boolean' ? addBos : known.addsBos,
      json: byteLevelJson(tokens, mergesOf(get('merges')), known, addedTokens(literal)),
    }
  }
  if (model === 'llama') {
    const scores = get('scores')
    if (!Array.isArray(scores) || scores.length !== tokens.length)
      return refuse('a sentencepiece tokenizer without scores', 'a score for each token')
    const literal = ids(kinds.control, kinds.unknown, kinds.userDefined)
    const spacePrefix = addSpace !== false
    const unknown = tokens[idOf('unknown_token_id') ?? 0]
    return {
      ...common,
      spelling: 'sentencepiece',
      literalIds: literal,
      spacePrefix,
      addsBos: addBos !== false,
      json: sentencepieceJson(tokens, scores.map(Number), typeOf, spacePrefix, unknown, addedTokens(literal)),
    }
  }
  throw new TokenizerError('UNSUPPORTED_TOKENIZER', {
    given: `the tokenizer model "${String(model)}"`,
    allowed: 'gpt2, llama',
    cure: 'Use the tokenizer.json of the model.',
  })
}

function mergesOf(value: GgufValue | undefined): [string, string][] {
  if (!Array.isArray(value)) return refuse('a byte-level BPE tokenizer without merges', 'a list of merges')
  return value.map((merge) => {
    // The left part may itself begin with a space in odd vocabularies, so look for the space after the first character.
    const at = typeof merge === 'string' ? merge.indexOf(' ', 1) : -1
    if (typeof merge !== 'string' || at < 0)
      return refuse(`the merge ${JSON.stringify(merge)}`, 'two parts with a space between')
    return [merge.slice(0, at), merge.slice(at + 1)]
  })
}

const vocabulary = (tokens: readonly string[]) => Object.fromEntries(tokens.map((token, id) => [token, id]))

function byteLevelJson(
  tokens: readonly string[],
  merges: [string, string][],
  pre: { patterns: readonly string[]; ignoreMerges: boolean },
  addedTokens: unknown[],
) {
  const splits = pre.patterns.map((Regex) => ({
    type: 'Split',
    pattern: { Regex },
    behavior: 'Isolated',
    invert: false,
  }))
  return {
    added_tokens: addedTokens,
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [...splits, { type: 'ByteLevel', add_prefix_space: false, use_regex: false }],
    },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: vocabulary(tokens), merges, ignore_merges: pre.ignoreMerges },
  }
}

/**
 * Sentencepiece merges the neighbours whose union scores best. As BPE: every way to cut a token into two tokens is a merge, ranked by
 * the score of the union; the order among cuts of one token does not matter to the result, but is made certain.
 */
function sentencepieceJson(
  tokens: readonly string[],
  scores: readonly number[],
  typeOf: (id: number) => unknown,
  spacePrefix: boolean,
  unknown: string | undefined,
  addedTokens: unknown[],
) {
  const vocab = new Map(tokens.map((token, id) => [token, id]))
  const mergeable = (token: string) => {
    const id = vocab.get(token)
    return id !== undefined && typeOf(id) === kinds.normal
  }
  const merges: { left: string; right: string; score: number; id: number }[] = []
  tokens.forEach((token, id) => {
    if (typeOf(id) !== kinds.normal) return
    for (let cut = 1; cut < token.length; cut++) {
      const left = token.slice(0, cut)
      const right = token.slice(cut)
      if (mergeable(left) && mergeable(right)) merges.push({ left, right, score: scores[id] ?? 0, id })
    }
  })
  merges.sort((a, b) => b.score - a.score || a.id - b.id || a.left.length - b.left.length)
  return {
    added_tokens: addedTokens,
    normalizer: {
      type: 'Sequence',
      normalizers: [
        ...(spacePrefix ? [{ type: 'Prepend', prepend: '▁' }] : []),
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: {
      type: 'BPE',
      vocab: vocabulary(tokens),
      merges: merges.map(({ left, right }) => [left, right]),
      byte_fallback: true,
      unk_token: unknown,
    },
  }
}
