import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { ready } from '@kvloom/core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadModel } from './model'
import { applyModelStages } from './model-stages'
import { resolveModel } from './models/resolve'
import { saveModel } from './save-model'
import { logitsOf, narrow, stage } from './testing/changed-model'
import { difference } from './testing/golden'
import { type RandomLlamaSettings, writeRandomLlama } from './testing/random-llama'

/** Packed weights against their values in f32: another order of sums. */
const UNPACKED = 1e-4

let folder: string
beforeAll(async () => {
  folder = await fs.mkdtemp(path.join(os.tmpdir(), 'kvloom-saved-'))
})
afterAll(() => fs.rm(folder, { recursive: true }))

const kinds: readonly (readonly [string, RandomLlamaSettings])[] = [
  ['plain', { model_type: 'llama' }],
  ['partly rotated', { model_type: 'llama', head_dim: 16, partial_rotary_factor: 0.5, bos_token_id: 1 }],
  ['linear', { model_type: 'llama', rope_scaling: { type: 'linear', factor: 4 } }],
  [
    'llama3',
    {
      model_type: 'llama',
      tie_word_embeddings: false,
      rope_scaling: {
        rope_type: 'llama3',
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 64,
      },
    },
  ],
  ['yarn', { model_type: 'qwen2', rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 64 } }],
  ['qwen3', { model_type: 'qwen3', head_dim: 16, eos_token_id: [2, 3], use_sliding_window: true, sliding_window: 64 }],
  ['mistral', { model_type: 'mistral', sliding_window: 64 }],
]

describe('saving', () => {
  it.each(kinds)('%s: the same configuration, fingerprint and logits', async (name, settings) => {
    const made = await writeRandomLlama(settings, 'BF16')
    const model = await loadModel(made.folder)
    const saved = path.join(folder, 'kinds', name)
    await saveModel(model, saved)
    const config = JSON.parse(await fs.readFile(path.join(saved, 'config.json'), 'utf8')) as { model_type: string }
    expect(config.model_type).toBe(settings.model_type)
    const again = await loadModel(saved)
    expect(again.config).toEqual(model.config)
    expect(again.shape).toEqual(model.shape)
    expect(await logitsOf(again)).toEqual(await logitsOf(model))
    expect(() => again.tokenizer).toThrow('tokenizer.json')
    model.dispose()
    again.dispose()
    await fs.rm(made.folder, { recursive: true })
  })

  it('a GGUF file with its tokenizer, packed weights as f32 of the same values', async () => {
    const file = path.join(path.dirname(fileURLToPath(import.meta.url)), '../fixtures/mini-llama.gguf')
    const model = await loadModel(file)
    const saved = path.join(folder, 'gguf')
    await saveModel(model, saved)
    const again = await loadModel(saved)
    expect(again.shape).toEqual(model.shape)
    expect({ ...again.config, name: undefined }).toEqual({ ...model.config, name: undefined })
    const before = await logitsOf(model)
    expect(difference(await logitsOf(again), before).absolute).toBeLessThan(UNPACKED)
    model.dispose()
    again.dispose()
  })

  it('the tokenizer goes along', async () => {
    const tiny = await loadModel((await resolveModel('tiny')).path)
    const saved = path.join(folder, 'tiny')
    await saveModel(tiny, saved)
    const again = await loadModel(saved)
    const text = 'Call me Ishmael.\nÄpfel <s>'
    expect(again.tokenizer.encode(text)).toEqual(tiny.tokenizer.encode(text))
    expect(again.tokenizer.tokenFacts()).toEqual(tiny.tokenizer.tokenFacts())
    expect(again.tokenizer.addsBos).toBe(tiny.tokenizer.addsBos)
    expect(again.tokenizer.chatTemplate).toBe(tiny.tokenizer.chatTemplate)
    tiny.dispose()
    again.dispose()
  })

  it('writes whole folders only, and into nothing that is there', async () => {
    const made = await writeRandomLlama({ model_type: 'llama' })
    const model = await loadModel(made.folder)
    const codes = (place: string, signal?: AbortSignal) =>
      saveModel(model, place, signal ? { signal } : {}).then(
        () => 'fine',
        (error: { code?: string; message: string }) => error.code ?? error.message,
      )
    expect(await codes(made.folder)).toBe('FILE_EXISTS')
    expect(await codes(path.join(made.folder, 'config.json'))).toBe('CANNOT_WRITE')
    expect(await codes(path.join(made.folder, 'config.json', 'x'))).toBe('CANNOT_WRITE')
    const place = path.join(folder, 'whole', 'model')
    expect(await codes(place, AbortSignal.abort(new Error('enough')))).toBe('enough')
    expect(await fs.readdir(path.dirname(place))).toEqual([])
    await fs.mkdir(place)
    expect(await codes(place)).toBe('fine')
    expect(await fs.readdir(path.dirname(place))).toEqual(['model'])
    model.dispose()
    await fs.rm(made.folder, { recursive: true })
  })

  it('a changed folder is another model, and a strange block is refused', async () => {
    const made = await writeRandomLlama({ model_type: 'llama', head_dim: 16 })
    const base = await loadModel(made.folder)
    const model = await applyModelStages(base, ready(stage(narrow)))
    const saved = path.join(folder, 'changed')
    await saveModel(model, saved)
    const config = JSON.parse(await fs.readFile(path.join(saved, 'config.json'), 'utf8')) as Record<string, unknown>
    const block = config['kvloom'] as Record<string, unknown>
    const load = async (change: Record<string, unknown>) => {
      await fs.writeFile(path.join(saved, 'config.json'), JSON.stringify({ ...config, ...change }))
      const loaded = await loadModel(saved)
      loaded.dispose()
      return loaded.shape.fingerprint
    }
    expect(config['model_type']).toBe('kvloom-llama')
    expect(await load({})).toBe(model.shape.fingerprint)
    expect(await load({ rms_norm_eps: 1e-6 })).not.toBe(model.shape.fingerprint)
    const refused = (changed: unknown, code: string) =>
      expect(load({ kvloom: changed })).rejects.toMatchObject({ name: 'ModelFileError', code })
    await refused(undefined, 'BAD_METADATA')
    await refused([], 'BAD_METADATA')
    await refused({ ...block, version: 2 }, 'UNSUPPORTED_VERSION')
    await refused({ ...block, sparse: true }, 'BAD_METADATA')
    await refused({ ...block, value_dim: 9.5 }, 'BAD_METADATA')
    await refused({ ...block, value_dim: 9 }, 'BAD_SHAPE')
    await refused({ ...block, attention_scale: 0 }, 'BAD_METADATA')
    await refused({ ...block, transformed_by: 'changer' }, 'BAD_METADATA')
    await refused({ ...block, rope: { dim: 12, frequencies: [1, 2], attention_factor: 1 } }, 'BAD_METADATA')
    await refused(
      { ...block, rope: { dim: 12, frequencies: [1, 2, 3, 4, 5, null], attention_factor: 1 } },
      'BAD_METADATA',
    )
    base.dispose()
    model.dispose()
    await fs.rm(made.folder, { recursive: true })
  })
})
