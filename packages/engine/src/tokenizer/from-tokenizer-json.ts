// The facts about a tokenizer.json that the library keeps to itself: how tokens spell bytes, special ids, start token, chat template.
import { TokenizerError } from '../errors'
import type { TokenizerDescription } from './from-gguf'

type Json = Readonly<Record<string, unknown>>

const object = (value: unknown): Json | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : undefined

/** All parts of a nested normalizer, pre-tokenizer or decoder, flattened. */
function parts(value: unknown): Json[] {
  const node = object(value)
  if (!node) return []
  const inner = node['normalizers'] ?? node['pretokenizers'] ?? node['decoders'] ?? node['processors']
  return Array.isArray(inner) ? inner.flatMap(parts) : [node]
}

function damaged(given: string, allowed: string): never {
  throw new TokenizerError('BAD_TOKENIZER', {
    given,
    allowed,
    cure: 'The tokenizer.json is damaged; fetch it again.',
  })
}

/** A value of the file in a message: it may be long, or nested without end. */
function brief(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 40))
  const { id, content } = object(value) ?? {}
  if (id !== undefined || content !== undefined) return `with id ${brief(id)} and content ${brief(content)}`
  return typeof value === 'object' && value !== null ? 'of no id and content' : String(value)
}

/** Reads a parsed tokenizer.json and tokenizer_config.json. Throws `TokenizerError`. */
export function describeTokenizerJson(tokenizer: Json, config: Json = {}): TokenizerDescription {
  const model = object(tokenizer['model'])
  const vocab = object(model?.['vocab'])
  // Files of old writers leave the type out.
  if (!model || !vocab || (model['type'] ?? 'BPE') !== 'BPE') {
    throw new TokenizerError('UNSUPPORTED_TOKENIZER', {
      given: `a tokenizer.json with a model of type ${brief(model?.['type'])}`,
      allowed: 'BPE with a vocabulary',
      cure: 'Use a Llama, Qwen or Mistral model.',
    })
  }
  const added = Array.isArray(tokenizer['added_tokens']) ? (tokenizer['added_tokens'] as unknown[]) : []
  const words = Object.entries(vocab)
  // Lists by id are as long as the largest id: a file may leave some ids out, and not claim millions that it has no tokens for.
  const idLimit = 2 * (words.length + added.length) + 1024
  const isId = (id: unknown): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < idLimit
  const tokens: string[] = []
  for (const [token, id] of words) {
    if (!isId(id)) return damaged(`the token ${brief(token)} with id ${brief(id)}`, `ids from 0 to ${idLimit - 1}`)
    tokens[id] = token
  }
  const special = new Set<number>()
  const literal = new Set<number>()
  for (const each of added) {
    const { id, content, special: isSpecial } = object(each) ?? {}
    if (!isId(id) || typeof content !== 'string')
      return damaged(`the added token ${brief(each)}`, `a content, and an id from 0 to ${idLimit - 1}`)
    tokens[id] = content
    literal.add(id)
    if (isSpecial === true) special.add(id)
  }
  const ways = [...parts(tokenizer['pre_tokenizer']), ...parts(tokenizer['decoder'])]
  const byteLevel = ways.some((part) => part['type'] === 'ByteLevel')
  const normalizers = parts(tokenizer['normalizer'])
  const prepends =
    normalizers.some((part) => part['type'] === 'Prepend') ||
    ways.some(
      (part) =>
        part['type'] === 'Metaspace' && part['prepend_scheme'] !== 'never' && part['add_prefix_space'] !== false,
    )
  const idOf = (key: string) => {
    const value = config[key]
    const content = typeof value === 'string' ? value : object(value)?.['content']
    const id = typeof content === 'string' ? tokens.indexOf(content) : -1
    return id < 0 ? undefined : id
  }
  const bosId = idOf('bos_token')
  const template = config['chat_template']
  const named = Array.isArray(template)
    ? template.map(object).find((each) => each?.['name'] === 'default')?.['template']
    : template
  return {
    json: tokenizer,
    tokens,
    spelling: byteLevel ? 'byte-level' : 'sentencepiece',
    specialIds: special,
    literalIds: literal,
    spacePrefix: !byteLevel && prepends,
    bosId,
    eosId: idOf('eos_token'),
    addsBos:
      typeof config['add_bos_token'] === 'boolean'
        ? config['add_bos_token']
        : startsWithBos(tokenizer['post_processor'], bosId, tokens),
    chatTemplate: typeof named === 'string' ? named : undefined,
  }
}

/** Does the post-processor put the start token first? */
function startsWithBos(postProcessor: unknown, bosId: number | undefined, tokens: readonly string[]): boolean {
  if (bosId === undefined) return false
  return parts(postProcessor).some((part) => {
    const single = part['single']
    const first = Array.isArray(single) ? object(object(single[0])?.['SpecialToken'])?.['id'] : undefined
    return part['type'] === 'TemplateProcessing' && first === tokens[bosId]
  })
}
