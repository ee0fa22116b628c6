import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { GgufFile, GgufValue } from '../files/gguf'
import { generateAll } from '../generate'
import { loadModel } from '../model'
import { exact } from '../testing/exact'
import { writeRandomLlama } from '../testing/random-llama'
import { configFromGguf } from './config-from-gguf'
import { endIdsByText, endIdsOfGguf, endIdsOfHuggingFace } from './end-ids'
import { inspectModel } from './inspect'
import { openModelFiles } from './model-files'

const gguf = (entries: Record<string, GgufValue>) =>
  new Map(Object.entries(entries).map(([key, value]) => [`tokenizer.ggml.${key}`, value]))

describe('end ids of a GGUF file', () => {
  it.each([
    '<|eot_id|>',
    '<|im_end|>',
    '<end_of_turn>',
    '<|end|>',
    '<|eom_id|>',
    '<|endoftext|>',
    '<|end_of_text|>',
    '<EOT>',
    '<｜end▁of▁sentence｜>',
  ])('%s is found by its text where no key names it', (text) => {
    const tokens = ['<unk>', 'a', text, 'b', '</s>']
    expect(endIdsOfGguf(gguf({ tokens, eos_token_id: 4 }), 5)).toEqual({ ids: [4, 2], warnings: [] })
    expect(endIdsOfGguf(gguf({ tokens }), 5)).toEqual({ ids: [2, 4], warnings: [] })
  })

  it('those a key names come first, each once; a look-alike is none', () => {
    const tokens = ['<|eot_id|>', '<|eom_id|>', '</s>', 'x<|im_end|>', '<|IM_END|>', ' </s>']
    const { ids } = endIdsOfGguf(gguf({ tokens, eos_token_id: 2, eot_token_id: 0, eom_token_id: 1 }), 6)
    expect(ids).toEqual([2, 0, 1])
  })

  it('a text found beyond the rows of the embedding is no token of the model', () => {
    expect(endIdsOfGguf(gguf({ tokens: ['a', '<|eot_id|>'] }), 1)).toEqual({ ids: [], warnings: [] })
  })

  it('they are in the configuration of the model', () => {
    const tokens = ['a', '<|eot_id|>', '<|end_of_text|>']
    const metadata = new Map<string, GgufValue>([
      ['general.architecture', 'llama'],
      ['llama.embedding_length', 8],
      ['llama.attention.head_count', 2],
      ['llama.context_length', 16],
      ['llama.block_count', 1],
      ['llama.feed_forward_length', 8],
      ['llama.attention.layer_norm_rms_epsilon', 1e-5],
      ...gguf({ tokens, eos_token_id: 2 }),
    ])
    const file = { metadata, tensors: new Map() } as Partial<GgufFile> as GgufFile
    expect(configFromGguf('chat.gguf', file, undefined).eosIds).toEqual([2, 1])
    metadata.set('tokenizer.ggml.eos_token_id', -1)
    expect(configFromGguf('chat.gguf', file, undefined).eosIds).toEqual([1, 2])
  })

  it('the exceptions: <|end|> beside calls, </s> beside tool responses', () => {
    expect(endIdsByText(['<|end|>', '<|return|>', '<|call|>'])).toEqual([1, 2])
    expect(endIdsByText(['<|end|>', '<|flush|>', '<|calls|>'])).toEqual([1, 2])
    expect(endIdsByText(['<|end|>', '<|call|>'])).toEqual([0, 1])
    expect(endIdsByText(['</s>', '<|tool_response>'])).toEqual([1])
  })

  it.each([-1, 5, 4294967295, 1.5, NaN, 'two', [2], 10n])('eos_token_id %s is reported, the others stay', (bad) => {
    const tokens = ['a', 'b', '<|im_end|>', 'c', '</s>']
    const { ids, warnings } = endIdsOfGguf(gguf({ tokens, eos_token_id: bad as GgufValue, eot_token_id: 4 }), 5)
    expect(ids).toEqual([4, 2])
    expect(warnings).toHaveLength(1)
    expect(warnings[0]).toMatch(/^tokenizer\.ggml\.eos_token_id is .*0 to 4.*ignored.*stops at 4, 2\.$/)
  })
})

describe('end ids of a folder', () => {
  it('of both files, lists and single ids, null for none', () => {
    expect(endIdsOfHuggingFace({ eos_token_id: 2 }, { eos_token_id: [3, 2] }, 9)).toEqual({ ids: [2, 3], warnings: [] })
    expect(endIdsOfHuggingFace({ eos_token_id: null }, undefined, 9)).toEqual({ ids: [], warnings: [] })
  })

  it('bad ones are named with their file, and what is left is said', () => {
    const { ids, warnings } = endIdsOfHuggingFace({ eos_token_id: -1 }, { eos_token_id: [9, '</s>', {}] }, 9)
    expect(ids).toEqual([])
    expect(warnings).toHaveLength(4)
    expect(warnings[0]).toContain('eos_token_id of config.json is -1')
    expect(warnings[1]).toContain('eos_token_id of generation_config.json is 9')
    expect(warnings[2]).toContain('"</s>"')
    for (const warning of warnings) expect(warning).toContain('No end token is left')
  })
})

describe('a model with a bad end id', () => {
  let folder: string
  beforeAll(async () => {
    folder = (await writeRandomLlama({ model_type: 'llama', eos_token_id: [-1, 131, 7] })).folder
    fs.writeFileSync(path.join(folder, 'generation_config.json'), '{"eos_token_id":-1}')
  })
  afterAll(() => fs.rmSync(folder, { recursive: true }))

  it('loads, says so, and generates to its limit or a good end id', async () => {
    expect((await inspectModel(folder)).warnings).toHaveLength(3)
    const model = await loadModel(folder, { backend: 'cpu' })
    expect(model.config.eosIds).toEqual([7])
    expect(model.warnings.join('\n')).toMatch(
      /config.json is -1(.|\n)*config.json is 131(.|\n)*generation_config.json is -1/,
    )
    const { ids, reason } = await generateAll(model, { compressor: exact }, [5, 9], { text: false, maxNewTokens: 4 })
    expect(reason === 'stop' || ids.length === 4).toBe(true)
    model.dispose()
  })

  it('a GGUF file whose eos is no token keeps its tokenizer', async () => {
    const bytes = fs.readFileSync(new URL('../../fixtures/mini-llama.gguf', import.meta.url))
    const at = bytes.indexOf('tokenizer.ggml.eos_token_id') + 'tokenizer.ggml.eos_token_id'.length
    bytes.writeUInt32LE(4294967295, at + 4) // after the key comes its type
    const place = fs.mkdtempSync(path.join(os.tmpdir(), 'kvloom-end-ids-'))
    fs.writeFileSync(path.join(place, 'bad.gguf'), bytes)
    const files = await openModelFiles(path.join(place, 'bad.gguf'))
    expect(files.warnings).toHaveLength(1)
    expect(files.warnings[0]).toContain('4294967295')
    expect((await openModelFiles(folder)).warnings).toHaveLength(3)
    fs.rmSync(place, { recursive: true })
  })
})
