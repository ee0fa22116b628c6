import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { UnsupportedArchitectureError } from '../errors'
import { bytesSource, diskFolder } from '../files/byte-source'
import { dequantize } from '../files/dequantize'
import { readSafetensors } from '../files/safetensors'
import { encodeSafetensors } from '../files/safetensors-write'
import { errorCode, makeGguf } from '../files/testing'
import { configFromGguf } from './config-from-gguf'
import { configFromHuggingFace } from './config-from-hugging-face'
import { openModelFiles } from './model-files'

const fixture = (name: string) => fileURLToPath(new URL(`../../fixtures/${name}`, import.meta.url))
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kvloom-models-'))
afterAll(() => fs.rmSync(folder, { recursive: true }))

describe('one model, as GGUF and as safetensors', () => {
  const expected = {
    architecture: 'llama',
    layers: 2,
    hiddenSize: 32,
    intermediateSize: 64,
    queryHeads: 4,
    kvHeads: 2,
    keyDim: 8,
    valueDim: 8,
    vocabSize: 40,
    contextLength: 128,
    slidingWindow: undefined,
    rope: { theta: 10000, dim: 8, scaling: { kind: 'none' } },
    tiedEmbeddings: false,
    attentionBias: true,
    qkNorm: false,
    bosId: 1,
  }

  it('has one configuration', async () => {
    const gguf = await openModelFiles(fixture('mini-llama.gguf'))
    const hf = await openModelFiles(fixture('mini-llama'))
    expect(gguf.kind).toBe('gguf')
    expect(gguf.config).toMatchObject({ ...expected, eosIds: [2], rmsEpsilon: Math.fround(1e-5) })
    expect(hf.kind).toBe('safetensors')
    expect(hf.config).toMatchObject({ ...expected, eosIds: [2, 3], rmsEpsilon: 1e-5 })
  })

  it('has the same weights under the same names, GGUF queries and keys put back in half-split order', async () => {
    const gguf = await openModelFiles(fixture('mini-llama.gguf'))
    const hf = await openModelFiles({ folder: diskFolder(fixture('mini-llama')) })
    expect([...gguf.weights.keys()]).toEqual([...hf.weights.keys()])
    expect(gguf.weights.size).toBe(3 + 2 * 13)
    for (const name of gguf.weights.keys()) {
      const [a, b] = [await gguf.tensor(name), await hf.tensor(name)]
      expect(a.shape, name).toEqual(b.shape)
      expect(dequantize(a.format, a.data), name).toEqual(dequantize(b.format, b.data))
    }
    expect((await gguf.tensor('layers.0.attention.query')).format).toBe('q8_0')
    expect(await errorCode(() => gguf.tensor('layers.9.mlpNorm'))).toBe('TENSOR_MISSING')
    expect(await errorCode(() => hf.tokenizer())).toBe('FILE_MISSING')
  })

  it('opens from bytes as from a path', async () => {
    const { config } = await openModelFiles({
      file: bytesSource(new Uint8Array(fs.readFileSync(fixture('mini-llama.gguf')))),
    })
    expect(config.layers).toBe(2)
  })

  it('reads tokenizer files of a folder', async () => {
    const copy = path.join(folder, 'with-tokenizer')
    fs.cpSync(fixture('mini-llama'), copy, { recursive: true })
    fs.writeFileSync(path.join(copy, 'tokenizer.json'), '{"model":{}}')
    fs.writeFileSync(path.join(copy, 'chat_template.jinja'), 'hello')
    expect(await (await openModelFiles(copy)).tokenizer()).toEqual({
      kind: 'tokenizer.json',
      tokenizer: { model: {} },
      config: { chat_template: 'hello' },
    })
  })
})

describe('refusals', () => {
  const change = (name: string, edit: (config: Record<string, unknown>, place: string) => void) => {
    const copy = path.join(folder, name)
    fs.cpSync(fixture('mini-llama'), copy, { recursive: true })
    const config = JSON.parse(fs.readFileSync(path.join(copy, 'config.json'), 'utf8')) as Record<string, unknown>
    edit(config, copy)
    fs.writeFileSync(path.join(copy, 'config.json'), JSON.stringify(config))
    return copy
  }
  it.each([
    ['an unknown family', (config) => (config['model_type'] = 'mamba'), 'UNSUPPORTED_ARCHITECTURE'],
    ['no sizes', (config) => delete config['hidden_size'], 'BAD_METADATA'],
    ['a size that is no number', (config) => (config['num_hidden_layers'] = 'two'), 'BAD_METADATA'],
    ['heads that do not divide', (config) => (config['num_key_value_heads'] = 3), 'BAD_METADATA'],
    ['a scaling nobody knows', (config) => (config['rope_scaling'] = { type: 'dynamic', factor: 2 }), 'BAD_METADATA'],
    ['a layer too many', (config) => (config['num_hidden_layers'] = 3), 'TENSOR_MISSING'],
    ['weights of another shape', (config) => (config['intermediate_size'] = 96), 'BAD_SHAPE'],
    ['a missing shard', (_, place) => fs.rmSync(path.join(place, 'model-00002-of-00002.safetensors')), 'FILE_MISSING'],
    [
      'an output matrix that is missing',
      (_, place) => {
        for (const file of [
          'model-00001-of-00002.safetensors',
          'model-00002-of-00002.safetensors',
          'model.safetensors.index.json',
        ])
          fs.rmSync(path.join(place, file))
        fs.writeFileSync(
          path.join(place, 'model.safetensors'),
          encodeSafetensors({ 'model.embed_tokens.weight': { shape: [40, 32], data: new Float32Array(1280) } }),
        )
      },
      'TENSOR_MISSING',
    ],
  ] as [string, (config: Record<string, unknown>, place: string) => void, string][])('%s', async (name, edit, code) => {
    const place = change(name, edit)
    expect(await errorCode(() => openModelFiles(place))).toBe(code)
  })

  it('weights of a dtype that is no weight format', async () => {
    const place = change('f64', () => undefined)
    const all: Record<string, { shape: readonly number[]; data: Float64Array }> = {}
    for (const shard of ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']) {
      for (const [name, { shape, data }] of await readSafetensors(path.join(place, shard)))
        all[name] = { shape, data: Float64Array.from(data as Float32Array) }
    }
    fs.writeFileSync(path.join(place, 'model.safetensors'), encodeSafetensors(all))
    const model = await openModelFiles(place)
    expect(await errorCode(() => model.tensor('embedding'))).toBe('UNSUPPORTED_TENSOR_TYPE')
  })

  it('names the families it knows', async () => {
    const file = makeGguf({ metadata: [['general.architecture', { type: 8, value: 'mamba' }]] })
    const error = await openModelFiles({ file: bytesSource(file) }).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(UnsupportedArchitectureError)
    expect((error as Error).message).toContain('llama, mistral, qwen2, qwen3')
  })

  it('GGUF without architecture or sizes, and paths to nothing', async () => {
    expect(await errorCode(() => openModelFiles({ file: bytesSource(makeGguf()) }))).toBe('BAD_METADATA')
    const nameOnly = makeGguf({ metadata: [['general.architecture', { type: 8, value: 'llama' }]] })
    expect(await errorCode(() => openModelFiles({ file: bytesSource(nameOnly) }))).toBe('BAD_METADATA')
    expect(await errorCode(() => openModelFiles(path.join(folder, 'absent.gguf')))).toBe('FILE_MISSING')
    const empty = path.join(folder, 'empty')
    fs.mkdirSync(empty)
    expect(await errorCode(() => openModelFiles(empty))).toBe('FILE_MISSING')
  })
})

describe('RoPE scaling', () => {
  const base = {
    model_type: 'qwen3',
    hidden_size: 64,
    intermediate_size: 128,
    num_hidden_layers: 1,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 32,
    vocab_size: 9,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-6,
  }
  const scaling = (rope_scaling: unknown, more = {}) =>
    configFromHuggingFace('config.json', { ...base, ...more, rope_scaling }).rope.scaling

  it('is read from config.json', () => {
    expect(scaling(null)).toEqual({ kind: 'none' })
    expect(scaling({ rope_type: 'default' })).toEqual({ kind: 'none' })
    expect(scaling({ type: 'linear', factor: 4 })).toEqual({ kind: 'linear', factor: 4 })
    expect(
      scaling({
        rope_type: 'llama3',
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 8192,
      }),
    ).toEqual({
      kind: 'llama3',
      factor: 8,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalContextLength: 8192,
    })
    expect(scaling({ rope_type: 'yarn', factor: 4, original_max_position_embeddings: 1024 })).toEqual({
      kind: 'yarn',
      factor: 4,
      originalContextLength: 1024,
      betaFast: 32,
      betaSlow: 1,
      attentionFactor: undefined,
    })
  })

  it('and head dims, windows and rope_parameters', () => {
    const config = configFromHuggingFace(
      'config.json',
      { ...base, rope_parameters: { rope_type: 'default', rope_theta: 1e6 }, sliding_window: 9 },
      { eos_token_id: [5, 6] },
    )
    expect(config).toMatchObject({
      keyDim: 32,
      rope: { theta: 1e6, dim: 32 },
      qkNorm: true,
      tiedEmbeddings: false,
      slidingWindow: undefined,
      eosIds: [5, 6],
    })
    expect(
      configFromHuggingFace('config.json', { ...base, model_type: 'mistral', sliding_window: 9 }).slidingWindow,
    ).toBe(9)
  })

  it('is read from GGUF', () => {
    const metadata = (more: Record<string, string | number>) =>
      new Map<string, string | number>(
        Object.entries({
          'general.architecture': 'llama',
          'llama.embedding_length': 64,
          'llama.attention.head_count': 4,
          'llama.block_count': 1,
          'llama.feed_forward_length': 128,
          'llama.context_length': 4096,
          'llama.vocab_size': 9,
          'llama.attention.layer_norm_rms_epsilon': 1e-5,
          ...more,
        }),
      )
    const read = (more: Record<string, string | number>, factors?: number[]) =>
      configFromGguf(
        'made-up.gguf',
        { version: 3, metadata: metadata(more), tensors: new Map(), read: async () => new Uint8Array() },
        factors,
      ).rope.scaling
    const pairs = [1, 2, 3, 4, 5, 6, 7, 8]
    expect(read({})).toEqual({ kind: 'none' })
    expect(read({ 'llama.rope.scaling.type': 'linear', 'llama.rope.scaling.factor': 2 })).toEqual({
      kind: 'linear',
      factor: 2,
    })
    expect(
      read({
        'llama.rope.scaling.type': 'yarn',
        'llama.rope.scaling.factor': 2,
        'llama.rope.scaling.original_context_length': 2048,
      }),
    ).toMatchObject({ kind: 'yarn', factor: 2, originalContextLength: 2048 })
    expect(read({}, pairs)).toEqual({ kind: 'factors', factors: pairs })
    expect(() => read({ 'llama.rope.scaling.type': 'longrope' })).toThrow(/none, linear, yarn/)
  })
})
