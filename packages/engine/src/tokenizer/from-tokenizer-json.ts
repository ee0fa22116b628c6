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

/** Reads a parsed tokenizer.json and tokenizer_config.json. Throws `TokenizerError`. */
export function describeTokenizerJson(tokenizer: Json, config: Json = {}): TokenizerDescription {
  const model = object(tokenizer['model'])
  const vocab = object(model?.['vocab'])
  // Files of old writers leave the type out.
  if (!model || !vocab || (model['type'] ?? 'BPE') !== 'BPE') {
    throw new TokenizerError('unsupported-tokenizer', {
      given: `a tokenizer.json with a model of type ${JSON.stringify(model?.['type'])}`,
      allowed: 'BPE with a vocabulary',
      cure: 'Use a Llama, Qwen or Mistral model.',
    })
  }
  const tokens: string[] = []
  for (const [token, id] of Object.entries(vocab)) tokens[Number(id)] = token
  const special = new Set<number>()
  const literal = new Set<number>()
  const added = Array.isArray(tokenizer['added_tokens']) ? (tokenizer['added_tokens'] as unknown[]) : []
  for (const each of added) {
    const { id, content, special: isSpecial } = object(each) ?? {}
    if (typeof id !== 'number' || typeof content !== 'string') {
      throw new TokenizerError('bad-tokenizer', {
        given: `the added token ${JSON.stringify(each)}`,
        allowed: 'an id and a content',
        cure: 'The tokenizer.json is damaged; fetch it again.',
      })
    }
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
