import { describe, expect, it } from 'vitest'
import { TokenizerError } from '../errors'
import type { GgufValue } from '../files/gguf'
import { sentencepieceFixture } from '../testing/tokenizers'
import { createTokenizer } from './tokenizer'

const spm = sentencepieceFixture()
const changed = (entries: Record<string, GgufValue>) =>
  new Map<string, GgufValue>([...spm.metadata, ...Object.entries(entries)])
const chat = { 'tokenizer.chat_template': '{% for m in messages %}{{ m.content }}{% endfor %}' }
const tokenizer = createTokenizer({ kind: 'gguf', metadata: changed(chat) })
const refusal = (run: () => unknown): TokenizerError => {
  try {
    run()
  } catch (error) {
    if (error instanceof TokenizerError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

describe('what is given in the place of something else', () => {
  it.each([undefined, null, 5, 1n, ['a'], {}, Int32Array.of(1), () => 'a', Symbol('a')])('%s is no text', (given) => {
    const error = refusal(() => tokenizer.encode(given as string))
    expect(error.code).toBe('BAD_INPUT')
    expect(error.allowed).toBe('a text')
    expect(refusal(() => tokenizer.encodeFirst(given as string, 3)).code).toBe('BAD_INPUT')
  })

  it.each([-1, NaN, undefined, 'two'])('%s is no count', (given) => {
    expect(refusal(() => tokenizer.encodeFirst('a', given as number)).code).toBe('BAD_INPUT')
  })

  it.each([undefined, null, 5, 'text', {}, { length: 1, 0: 5 }])('%j is no list of ids', (given) => {
    expect(refusal(() => tokenizer.decode(given as unknown as number[])).code).toBe('BAD_INPUT')
    if (given !== undefined)
      expect(refusal(() => tokenizer.stream({ after: given as unknown as number[] })).code).toBe('BAD_INPUT')
  })

  it.each([NaN, 1.5, -1, 700, '5', undefined, null, 5n, {}])('%s is no id', (given) => {
    const error = refusal(() => tokenizer.decode([300, given as number]))
    expect(error.code).toBe('UNKNOWN_ID')
    expect(error.allowed).toContain('0 to 699')
    expect(refusal(() => tokenizer.stream().push(given as number)).code).toBe('UNKNOWN_ID')
  })

  it.each([
    undefined,
    'hello',
    {},
    [undefined],
    ['hello'],
    [{ role: 'user' }],
    [{ content: 'a' }],
    [{ role: 'user', content: ['a'] }],
    [{ role: 1, content: 'a' }],
  ])('%j are no messages', (given) => {
    expect(refusal(() => tokenizer.applyChatTemplate(given as never)).code).toBe('BAD_INPUT')
  })
})

describe('a GGUF file with an end id that is no token', () => {
  it.each([-1, 700, 4294967295, 1.5, 'x'])('%s: the tokenizer has none', (bad) => {
    const made = createTokenizer({ kind: 'gguf', metadata: changed({ 'tokenizer.ggml.eos_token_id': bad }) })
    expect(made.eosId).toBeUndefined()
    expect(made.decode(made.encode('the', { bos: false }))).toBe('the')
  })
  it.each([-1, 700, 1.5])('but a start id %s is refused: texts would begin without it', (bad) => {
    const metadata = changed({ 'tokenizer.ggml.bos_token_id': bad })
    expect(refusal(() => createTokenizer({ kind: 'gguf', metadata })).code).toBe('BAD_TOKENIZER')
  })
})

describe('a tokenizer.json that is damaged', () => {
  const model = { type: 'BPE', vocab: { a: 0, b: 1 }, merges: [] }
  const base = { added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, model }
  const nested = (depth: number) => {
    let value: unknown = null
    for (let i = 0; i < depth; i++) value = { normalizers: [value] }
    return value
  }
  it.each([
    ['an id of 30 million', { model: { ...model, vocab: { a: 30_000_000 } } }],
    ['an id of 4 billion', { model: { ...model, vocab: { a: 4_000_000_000 } } }],
    ['a negative id', { model: { ...model, vocab: { a: -1 } } }],
    ['a fraction', { model: { ...model, vocab: { a: 0.5 } } }],
    ['an id that is a text', { model: { ...model, vocab: { a: '0' } } }],
    ['an added id of 4 billion', { added_tokens: [{ id: 4_000_000_000, content: '<x>', special: true }] }],
    ['an added id that is no number', { added_tokens: [{ id: null, content: '<x>' }] }],
    ['an added token of nothing', { added_tokens: [null] }],
    ['merges that are none', { model: { ...model, merges: 5 } }],
    ['merges of nothing', { model: { ...model, merges: [null] } }],
    ['a normalizer nobody knows', { normalizer: { type: 'Future' } }],
    ['deep nesting', { normalizer: nested(100_000) }],
    ['a regular expression that is none', { pre_tokenizer: { type: 'Split', pattern: { Regex: '(' } } }],
  ])('%s', (_, change) => {
    const error = refusal(() => {
      const made = createTokenizer({ kind: 'tokenizer.json', tokenizer: { ...base, ...change }, config: {} })
      made.encode('ab')
    })
    expect(error.code).toMatch(/BAD_TOKENIZER|UNSUPPORTED_TOKENIZER/)
  })

  it('a few ids that are left out are no damage', () => {
    const tokenizer = { ...base, added_tokens: [{ id: 9, content: '<x>', special: true }] }
    const made = createTokenizer({ kind: 'tokenizer.json', tokenizer, config: {} })
    expect([...made.encode('ab<x>')]).toEqual([0, 1, 9])
    expect(made.vocabSize).toBe(10)
    expect(refusal(() => made.decode([5])).code).toBe('UNKNOWN_ID')
    expect(made.tokenFacts().specialIds).toEqual([9])
  })
})
