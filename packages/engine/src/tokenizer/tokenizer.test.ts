import fs from 'node:fs'
import { fileURLToPath } from 'node:url'
import zlib from 'node:zlib'
import { describe, expect, it } from 'vitest'
import type { TokenizerError } from '../errors'
import type { GgufValue } from '../files/gguf'
import { beforeAnswer } from './before-answer'
import { type TokenizerJson, tokenizerJson } from './to-json'
import { createTokenizer } from './tokenizer'

const fixture = (name: string) => fs.readFileSync(fileURLToPath(new URL(`../../fixtures/${name}`, import.meta.url)))
const json = <T>(name: string): T => JSON.parse(fixture(name).toString()) as T
type Case = { text: string; ids: number[] }

const smollm2Metadata = new Map(
  Object.entries(
    JSON.parse(zlib.gunzipSync(fixture('smollm2-tokenizer.json.gz')).toString()) as Record<string, GgufValue>,
  ),
)
const smollm2 = createTokenizer({ kind: 'gguf', metadata: smollm2Metadata })
const codeOf = (run: () => unknown): string | undefined => {
  try {
    run()
  } catch (error) {
    return (error as TokenizerError).code
  }
  return undefined
}

describe('SmolLM2', () => {
  const golden = json<{ tokenizer: Case[]; chatTemplate: string }>('smollm2-golden.json')

  it.each(golden.tokenizer)('encodes $text as transformers and llama.cpp do', ({ text, ids }) => {
    expect([...smollm2.encode(text)]).toEqual(ids)
    expect(smollm2.decode(ids)).toBe(text)
  })

  it('renders the chat template', () => {
    const messages = [{ role: 'user', content: 'What is the capital of France?' }]
    expect(smollm2.applyChatTemplate(messages, { addGenerationPrompt: true })).toBe(golden.chatTemplate)
    expect(smollm2.applyChatTemplate(messages, { addGenerationPrompt: false }).endsWith('<|im_end|>\n')).toBe(true)
  })

  it('says what stands between a message and its answer', () => {
    expect(beforeAnswer(smollm2)).toBe('<|im_end|>\n<|im_start|>assistant\n')
    expect(beforeAnswer({ chatTemplate: undefined, applyChatTemplate: () => 'never' })).toBe('')
    expect(codeOf(() => beforeAnswer({ chatTemplate: 'x', applyChatTemplate: () => 'x' }))).toBe('BAD_CHAT_TEMPLATE')
  })

  it('takes special tokens as text when asked', () => {
    const ids = smollm2.encode('<|im_start|>', { special: false })
    expect(ids.length).toBeGreaterThan(1)
    expect(smollm2.decode(ids)).toBe('<|im_start|>')
    expect(smollm2.decode([1, 19556, 2], { special: false })).toBe('Hello')
  })

  it('puts the start token first only when asked', () => {
    expect(smollm2.addsBos).toBe(false)
    expect([...smollm2.encode('', { bos: true })]).toEqual([1])
  })

  it('streams without half characters', () => {
    const text = 'naïve 日本 👩‍👩‍👧 end'
    const stream = smollm2.stream()
    const pieces = [...smollm2.encode(text)].map((id) => stream.push(id))
    expect(pieces.join('') + stream.end()).toBe(text)
    expect(pieces.some((piece) => piece === '')).toBe(true)
    expect(pieces.every((piece) => !piece.includes('\ufffd'))).toBe(true)
    const cut = smollm2.stream()
    expect(cut.push(23274) + cut.push(40993) + cut.end()).toContain('\ufffd')
  })

  it('encodes a long text in parts as it does in one', () => {
    const text = Array.from({ length: 6000 }, (_, i) => `word${i}, the  naïve\n = x${i % 7} <|im_end|> `).join('')
    const whole = smollm2.encode(text)
    expect(smollm2.decode(whole)).toBe(text)
    expect([...smollm2.encodeFirst(text, 1234)]).toEqual([...whole.subarray(0, 1234)])
    const pieces = text.split(/(?<=\n)/).flatMap((line) => [...smollm2.encode(line)])
    expect([...whole]).toEqual(pieces)
  })

  it('knows punctuation, white space and special ids', () => {
    const facts = smollm2.tokenFacts()
    const [comma, period, space, newline, hello] = [',', '.', ' ', '\n', 'Hello'].map((text) => smollm2.encode(text)[0])
    expect(facts.punctuationIds).toContain(comma)
    expect(facts.punctuationIds).toContain(period)
    expect(facts.punctuationIds).not.toContain(hello)
    expect(facts.whitespaceIds).toContain(space)
    expect(facts.newlineIds).toContain(newline)
    expect(facts.specialIds).toEqual(Array.from({ length: 17 }, (_, i) => i))
    expect(facts.vocabSize).toBe(49152)
  })

  it('refuses ids of another vocabulary', () => {
    expect(codeOf(() => smollm2.decode([49152]))).toBe('UNKNOWN_ID')
    expect(codeOf(() => smollm2.decode([-1]))).toBe('UNKNOWN_ID')
  })
})

describe('pre-tokenizers, against the tokenizers package', () => {
  for (const { pre, tokens, merges, cases } of json<
    { pre: string; tokens: string[]; merges: string[]; cases: Case[] }[]
  >('bpe-tokenizers.json')) {
    const metadata = new Map<string, GgufValue>([
      ['tokenizer.ggml.model', 'gpt2'],
      ['tokenizer.ggml.pre', pre],
      ['tokenizer.ggml.tokens', tokens],
      ['tokenizer.ggml.merges', merges],
      ['tokenizer.ggml.token_type', tokens.map((token) => (token === '<s>' || token === '</s>' ? 3 : 1))],
    ])
    const tokenizer = createTokenizer({ kind: 'gguf', metadata })
    it.each(cases)(`${pre}: $text`, ({ text, ids }) => {
      expect([...tokenizer.encode(text, { bos: false })]).toEqual(ids)
      expect(tokenizer.decode(ids)).toBe(text)
    })
  }
})

describe('sentencepiece, against the sentencepiece package', () => {
  const { metadata, cases } = json<{ metadata: Record<string, GgufValue>; cases: Case[] }>('spm-tokenizer.json')
  const tokenizer = createTokenizer({ kind: 'gguf', metadata: new Map(Object.entries(metadata)) })
  it.each(cases)('$text', ({ text, ids }) => {
    expect([...tokenizer.encode(text, { bos: false, special: false })]).toEqual(ids)
    expect(tokenizer.decode(ids)).toBe(text)
  })
  it('puts the start token first, as the file says, and encodes in parts as in one', () => {
    const text = (cases.at(-1)?.text ?? '').repeat(40).replaceAll('<unk>', 'unknown')
    const whole = tokenizer.encode(text)
    expect(whole[0]).toBe(1)
    expect(tokenizer.decode(whole.subarray(1)) === text).toBe(true)
    expect([...tokenizer.encodeFirst(text, 9000)]).toEqual([...whole.subarray(0, 9000)])
  })
})

describe('tokenizer.json', () => {
  const tokens = ['<end>', ...Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i)), 'Ġ', 'Ċ']
  const tokenizer = {
    added_tokens: [{ id: 0, content: '<end>', special: true }],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<end>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [],
      special_tokens: {},
    },
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: [] },
  }
  const bytes = createTokenizer({ kind: 'tokenizer.json', tokenizer, config: { bos_token: { content: '<end>' } } })

  it('encodes bytes', () => {
    expect([...bytes.encode('a b<end>')]).toEqual([0, 65, 95, 66, 0])
    expect(bytes.decode([65, 96, 66])).toBe('a\nb')
  })
  it('refuses text it cannot spell, and chats without a template', () => {
    expect(codeOf(() => bytes.encode('ü'))).toBe('BAD_TOKENIZER')
    expect(codeOf(() => bytes.applyChatTemplate([]))).toBe('NO_CHAT_TEMPLATE')
  })
  it('refuses templates that fail', () => {
    const config = { chat_template: "{{ raise_exception('only users') }}" }
    expect(codeOf(() => createTokenizer({ kind: 'tokenizer.json', tokenizer, config }).applyChatTemplate([]))).toBe(
      'BAD_CHAT_TEMPLATE',
    )
  })
  it('refuses what is no BPE and damaged tokens', () => {
    expect(
      codeOf(() =>
        createTokenizer({
          kind: 'tokenizer.json',
          tokenizer: { ...tokenizer, model: { type: 'Unigram', vocab: [] } },
          config: {},
        }),
      ),
    ).toBe('UNSUPPORTED_TOKENIZER')
    expect(
      codeOf(() =>
        createTokenizer({ kind: 'tokenizer.json', tokenizer: { ...tokenizer, added_tokens: [{}] }, config: {} }),
      ),
    ).toBe('BAD_TOKENIZER')
  })
})

describe('refusals of GGUF tokenizers', () => {
  const metadata = (changes: Record<string, GgufValue | undefined>) => {
    const base: Record<string, GgufValue | undefined> = {
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.pre': 'gpt-2',
      'tokenizer.ggml.tokens': ['a'],
      'tokenizer.ggml.merges': [],
      ...changes,
    }
    return new Map(Object.entries(base).filter((entry): entry is [string, GgufValue] => entry[1] !== undefined))
  }
  it.each([
    ['an unknown model', { 'tokenizer.ggml.model': 'bert' }, 'UNSUPPORTED_TOKENIZER'],
    ['an unknown pre-tokenizer', { 'tokenizer.ggml.pre': 'future' }, 'UNSUPPORTED_TOKENIZER'],
    ['no tokens', { 'tokenizer.ggml.tokens': undefined }, 'BAD_TOKENIZER'],
    ['no merges', { 'tokenizer.ggml.merges': undefined }, 'BAD_TOKENIZER'],
    ['a merge of one part', { 'tokenizer.ggml.merges': ['ab'] }, 'BAD_TOKENIZER'],
    ['too few types', { 'tokenizer.ggml.token_type': [] }, 'BAD_TOKENIZER'],
    ['a start id outside', { 'tokenizer.ggml.bos_token_id': 9 }, 'BAD_TOKENIZER'],
    ['no scores', { 'tokenizer.ggml.model': 'llama' }, 'BAD_TOKENIZER'],
  ] as [string, Record<string, GgufValue | undefined>, string][])('%s', (_, changes, code) => {
    expect(codeOf(() => createTokenizer({ kind: 'gguf', metadata: metadata(changes) }))).toBe(code)
  })
})

describe('a GGUF tokenizer written as tokenizer.json', () => {
  const spm = json<{ metadata: Record<string, GgufValue>; cases: Case[] }>('spm-tokenizer.json')
  const golden = json<{ tokenizer: Case[] }>('smollm2-golden.json')

  it.each([
    ['byte-level', smollm2Metadata, golden.tokenizer],
    ['sentencepiece', new Map(Object.entries(spm.metadata)), spm.cases],
  ] as const)('%s: is the same tokenizer', (_, metadata, cases) => {
    const before = createTokenizer({ kind: 'gguf', metadata })
    const { json, config } = JSON.parse(JSON.stringify(tokenizerJson({ kind: 'gguf', metadata }))) as TokenizerJson
    const after = createTokenizer({ kind: 'tokenizer.json', tokenizer: json, config })
    for (const { text } of cases) {
      expect(after.encode(text)).toEqual(before.encode(text))
      expect(after.decode(before.encode(text))).toBe(before.decode(before.encode(text)))
    }
    for (const fact of ['vocabSize', 'bosId', 'eosId', 'addsBos', 'chatTemplate'] as const)
      expect(after[fact], fact).toBe(before[fact])
    expect(after.tokenFacts()).toEqual(before.tokenFacts())
  })
})
