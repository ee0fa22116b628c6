import { rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { generateAll } from '../generate'
import { loadModel, type Model } from '../model'
import { exact } from '../testing/exact'
import { writeRandomLlama } from '../testing/random-llama'
import { sentencepieceFixture, smollm2Fixture } from '../testing/tokenizers'
import { tokenizerJson } from './to-json'
import { createTokenizer, type Tokenizer } from './tokenizer'

const spm = sentencepieceFixture()
const bpe = smollm2Fixture()
const viaJson = ({ metadata }: typeof spm): Tokenizer => {
  const { json, config } = tokenizerJson({ kind: 'gguf', metadata })
  return createTokenizer({ kind: 'tokenizer.json', tokenizer: json, config })
}
const tokenizers: readonly (readonly [string, Tokenizer, typeof spm.cases])[] = [
  ['sentencepiece', createTokenizer({ kind: 'gguf', metadata: spm.metadata }), spm.cases],
  ['sentencepiece as tokenizer.json', viaJson(spm), spm.cases],
  [
    'sentencepiece without a space before texts',
    createTokenizer({ kind: 'gguf', metadata: new Map([...spm.metadata, ['tokenizer.ggml.add_space_prefix', false]]) }),
    spm.cases,
  ],
  ['byte-level BPE', createTokenizer({ kind: 'gguf', metadata: bpe.metadata }), bpe.cases],
]

/** Text of the first ids without an incomplete character at their end. */
function begun(tokenizer: Tokenizer, ids: readonly number[], special: boolean): string {
  const stream = tokenizer.stream({ special })
  return ids.map((id) => stream.push(id)).join('')
}

/** Texts of the stream that continues `before` with `ids`. */
function continued(tokenizer: Tokenizer, before: readonly number[], ids: readonly number[], special: boolean): string {
  const stream = tokenizer.stream({ special, after: before })
  return ids.map((id) => stream.push(id)).join('') + stream.end()
}

describe.each(tokenizers)('%s', (_, tokenizer, cases) => {
  it.each([true, false])(
    'what is begun and what continues it make the whole, cut anywhere (special: %s)',
    (special) => {
      for (const { text } of cases) {
        const ids = [...tokenizer.encodeFirst(text, 200)]
        const step = Math.ceil((ids.length + 1) / 20)
        for (let cut = 0; cut <= ids.length; cut += step) {
          const [before, after] = [ids.slice(0, cut), ids.slice(cut)]
          const joined = begun(tokenizer, before, special) + continued(tokenizer, before, after, special)
          expect(joined).toBe(tokenizer.decode(ids, { special }))
        }
      }
    },
  )

  it('and so with any ids: bytes without order, special tokens between, spaces first', () => {
    const id = fc.oneof(fc.nat({ max: 300 }), fc.nat({ max: 699 }))
    fc.assert(
      fc.property(fc.array(id, { maxLength: 24 }), fc.nat({ max: 24 }), fc.boolean(), (ids, at, special) => {
        const before = ids.slice(0, at)
        const joined = begun(tokenizer, before, special) + continued(tokenizer, before, ids.slice(at), special)
        expect(joined).toBe(tokenizer.decode(ids, { special }))
      }),
      { seed: 7, numRuns: 300 },
    )
  })

  it('texts that begin with spaces come back whole', () => {
    for (const text of [' a', '  two', '   ', ' ', '\n a', '\ta', '日本 ', ' 日本'])
      expect(tokenizer.decode(tokenizer.encode(text, { bos: false }))).toBe(text)
  })
})

describe('sentencepiece', () => {
  const [, tokenizer] = tokenizers[0]!
  const idOf = (token: string) => (spm.metadata.get('tokenizer.ggml.tokens') as string[]).indexOf(token)

  it('the word after a prompt keeps its space, the first word of a text has none', () => {
    const the = [...tokenizer.encode('the')]
    const rest = [...tokenizer.encode(' man', { bos: false })].filter((id) => id !== idOf('▁'))
    expect(tokenizer.decode(the, { special: false })).toBe('the')
    expect(continued(tokenizer, the, [idOf('▁a')], false)).toBe(' a')
    expect(continued(tokenizer, [1], [idOf('▁a')], false)).toBe('a')
    expect(continued(tokenizer, [1, ...the, 2], [idOf('▁a')], false)).toBe(' a')
    expect(continued(tokenizer, [], [idOf('▁a')], false)).toBe('a')
    expect(rest.length).toBeGreaterThan(0)
  })

  it('a stream that goes on in a text that is not at hand keeps the space', () => {
    expect(tokenizer.stream({ continues: true }).push(idOf('▁a'))).toBe(' a')
  })

  it('the word of a long prompt is found however many special tokens come after it', () => {
    const after = [idOf('▁a'), ...Array.from({ length: 200 }, () => 1)]
    expect(tokenizer.stream({ after, special: false }).push(idOf('▁a'))).toBe(' a')
    expect(tokenizer.stream({ after: after.slice(1), special: false }).push(idOf('▁a'))).toBe('a')
  })

  it('bytes of a character on both sides of the cut make the character', () => {
    const bytes = [0xe2, 0x82, 0xac].map((byte) => idOf(`<0x${byte.toString(16).toUpperCase()}>`))
    expect(begun(tokenizer, bytes.slice(0, 2), true)).toBe('')
    expect(continued(tokenizer, bytes.slice(0, 2), bytes.slice(2), true)).toBe('€')
  })

  it('user-defined tokens of spaces hold no space that was put there', () => {
    const tokens = [...(spm.metadata.get('tokenizer.ggml.tokens') as string[])]
    const types = [...(spm.metadata.get('tokenizer.ggml.token_type') as number[])]
    tokens[690] = '    '
    types[690] = 4
    const changed = new Map([...spm.metadata, ['tokenizer.ggml.tokens', tokens], ['tokenizer.ggml.token_type', types]])
    const indented = createTokenizer({ kind: 'gguf', metadata: changed as typeof spm.metadata })
    const ids = indented.encode('    a', { bos: false })
    expect(ids[0]).toBe(690)
    expect(indented.decode(ids).startsWith('    ')).toBe(true)
  })
})

describe('generation with a sentencepiece model', () => {
  let folder: string
  let model: Model
  beforeAll(async () => {
    const vocab = (spm.metadata.get('tokenizer.ggml.tokens') as string[]).length
    folder = (await writeRandomLlama({ model_type: 'llama', vocab_size: vocab })).folder
    const { json, config } = tokenizerJson({ kind: 'gguf', metadata: spm.metadata })
    await writeFile(path.join(folder, 'tokenizer.json'), JSON.stringify(json))
    await writeFile(path.join(folder, 'tokenizer_config.json'), JSON.stringify(config))
    model = await loadModel(folder, { backend: 'cpu' })
  })
  afterAll(async () => {
    model.dispose()
    await rm(folder, { recursive: true })
  })

  it.each(['the', 'Hello, world', ' two', '€'])('%j and its continuation are the text of all ids', async (text) => {
    const { tokenizer } = model
    const prompt = tokenizer.encode(text)
    for (const seed of [1, 2, 3]) {
      const pieces: string[] = []
      const made = await generateAll(model, { compressor: exact }, prompt, {
        maxNewTokens: 12,
        temperature: 1,
        seed,
        stopIds: [],
        onToken: (token) => pieces.push(token.text),
      })
      const whole = tokenizer.decode([...prompt, ...made.ids])
      expect(tokenizer.decode(prompt) + made.text).toBe(whole)
      expect(made.text.startsWith(pieces.join(''))).toBe(true)
    }
  })
})
