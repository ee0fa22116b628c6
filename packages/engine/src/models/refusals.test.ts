// What a model's files may not say or hold, and the words that say why.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { bytesSource } from '../files/byte-source'
import { loadModel } from '../model'
import { type Toy, type ToyChanges, toyFixture, toyFolder } from '../testing/toys'
import { type GgufToy, type GgufToyChanges, toyGguf } from '../testing/toys-gguf'
import { openModelFiles } from './model-files'

const { cases: toys } = await toyFixture<Toy>('transformers')
const { cases: ggufToys } = await toyFixture<GgufToy>('llama-cpp')

const named = <T extends { name: string }>(all: readonly T[], name: string): T => {
  const found = all.find((each) => each.name === name)
  if (!found) throw new Error(`no toy ${name}`)
  return found
}
const openToy = (name: string, changes: ToyChanges = {}) =>
  openModelFiles({ folder: toyFolder(named(toys, name), changes) })
type Keys = GgufToy['keys']
/** `more` takes the place of keys of the same names. */
const openGguf = (name: string, changes: GgufToyChanges & Pick<Partial<GgufToy>, 'tensors'> = {}, more: Keys = []) => {
  const toy = named(ggufToys, name)
  const keys = [...toy.keys.filter(([key]) => !more.some(([other]) => other === key)), ...more]
  const bytes = toyGguf({ ...toy, tensors: changes.tensors ?? toy.tensors, keys }, changes)
  return openModelFiles({ file: bytesSource(bytes, 'toy.gguf') })
}

describe('weights that a family must have, and no others', () => {
  const layer = (part: string, at = 1): string => `model.layers.${at}.${part}`
  it.each([
    ['qwen3', { without: [layer('self_attn.q_norm.weight')] }, 'TENSOR_MISSING', 'layers.1.self_attn.q_norm'],
    ['qwen3', { without: [layer('self_attn.k_norm.weight', 0)] }, 'TENSOR_MISSING', 'layers.0.self_attn.k_norm'],
    ['qwen2', { without: [layer('self_attn.q_proj.bias', 0)] }, 'TENSOR_MISSING', 'layers.0.self_attn.q_proj.bias'],
    ['qwen2', { without: [layer('self_attn.v_proj.bias', 2)] }, 'TENSOR_MISSING', 'layers.2.self_attn.v_proj.bias'],
    ['llama, biases of attention', { without: [layer('self_attn.o_proj.bias')] }, 'TENSOR_MISSING', 'o_proj.bias'],
    ['llama, biases of the MLP', { without: [layer('mlp.down_proj.bias')] }, 'TENSOR_MISSING', 'mlp.down_proj.bias'],
    ['llama', { without: ['lm_head.weight'] }, 'TENSOR_MISSING', 'tie_word_embeddings'],
    ['llama', { without: [layer('mlp.up_proj.weight')] }, 'TENSOR_MISSING', 'mlp.up_proj.weight'],
    ['llama', { add: { [layer('self_attn.q_norm.weight')]: [16] } }, 'TENSOR_UNEXPECTED', 'layers.1.self_attn.q_norm'],
    [
      'llama',
      { add: { [layer('self_attn.q_proj.bias')]: [64] } },
      'TENSOR_UNEXPECTED',
      'layers.1.self_attn.q_proj.bias',
    ],
    ['mistral', { add: { [layer('mlp.up_proj.bias')]: [80] } }, 'TENSOR_UNEXPECTED', 'layers.1.mlp.up_proj.bias'],
    [
      'qwen2',
      { add: { [layer('self_attn.o_proj.bias')]: [64] } },
      'TENSOR_UNEXPECTED',
      'layers.1.self_attn.o_proj.bias',
    ],
    [
      'qwen3',
      { add: { [layer('self_attn.k_proj.bias')]: [32] } },
      'TENSOR_UNEXPECTED',
      'layers.1.self_attn.k_proj.bias',
    ],
    ['qwen2', { add: { [layer('post_feedforward_layernorm.weight')]: [64] } }, 'TENSOR_UNEXPECTED', 'post_feedforward'],
    ['llama', { add: { [layer('input_layernorm.weight', 3)]: [64] } }, 'TENSOR_UNEXPECTED', 'layers.3.input_layernorm'],
    ['llama', { add: { 'lm_head.bias': [96] } }, 'TENSOR_UNEXPECTED', 'lm_head.bias'],
    ['llama', { config: { attention_bias: true } }, 'TENSOR_MISSING', 'layers.0.self_attn.q_proj.bias'],
    ['qwen3, biases of attention', { config: { attention_bias: false } }, 'TENSOR_UNEXPECTED', '_proj.bias'],
  ] as [string, ToyChanges, string, string][])('%s with %j', async (name, changes, code, words) => {
    await expect(openToy(name, changes)).rejects.toMatchObject({
      name: 'ModelFileError',
      code,
      message: expect.stringContaining(words) as string,
    })
  })

  it('passes over angles and the output matrix of tied embeddings', async () => {
    const add = { 'model.layers.0.self_attn.rotary_emb.inv_freq': [8] }
    expect((await openToy('llama', { add })).weights.has('layers.0.attention.query')).toBe(true)
    const tied = await openToy('llama, tied', { add: { 'lm_head.weight': [96, 64] } })
    expect([...tied.weights.keys()]).not.toContain('output')
  })

  it.each([
    ['qwen3', 'blk.0.attn_q_norm.weight'],
    ['qwen2', 'blk.1.attn_q.bias'],
    ['qwen2', 'blk.0.attn_v.bias'],
    ['llama, biases', 'blk.1.attn_k.bias'],
    ['llama, biases', 'blk.0.ffn_down.bias'],
    ['llama, biases', 'blk.1.attn_output.bias'],
  ])('GGUF %s without %s', async (name, tensor) => {
    await expect(openGguf(name, { keep: (each) => each !== tensor })).rejects.toThrow(`tensor "${tensor}"`)
  })

  it.each([
    ['llama', 'blk.1.attn_k_norm.weight', [16]],
    ['llama', 'output.bias', [96]],
    ['qwen2', 'blk.0.ffn_up.bias', [80]],
    ['qwen2', 'rope_freqs.weight', [8]],
    ['llama', 'blk.0.post_ffw_norm.weight', [64]],
  ] as [string, string, number[]][])('GGUF %s with %s', async (name, tensor, shape) => {
    const { tensors } = named(ggufToys, name)
    await expect(openGguf(name, { tensors: { ...tensors, [tensor]: shape } })).rejects.toMatchObject({
      code: 'TENSOR_UNEXPECTED',
      message: expect.stringContaining(`"${tensor}"`) as string,
    })
  })
})

describe('models that are not computed, for the true reason', () => {
  /** What no such refusal may say. */
  const falseCures = /damaged|incomplete|fetch it again|left this out/
  it.each([
    [{ hidden_act: 'gelu_10' }, /hidden_act = "gelu_10"; allowed: silu, swish, gelu/],
    [{ hidden_act: null }, /hidden_act = null/],
    [{ rope_scaling: { type: 'dynamic', factor: 2 } }, /type = "dynamic"; allowed: default, linear, llama3, yarn/],
    [{ rope_scaling: { rope_type: 'longrope', long_factor: [1], short_factor: [1] } }, /rope_type = "longrope"/],
    [{ rope_parameters: { rope_type: 'dynamic', rope_theta: 1e4 } }, /rope_type = "dynamic"/],
    [{ quantization_config: { quant_method: 'gptq', bits: 4 } }, /quantized by gptq/],
    [{ quantization_config: { quant_method: 'awq', bits: 4 } }, /quantized by awq/],
    [{ quantization_config: { load_in_4bit: true } }, /quantized by quantization_config/],
    [{ num_local_experts: 8, model_type: 'mistral' }, /a mixture of 8 experts/],
    [{ model_type: 'mixtral' }, /architecture "mixtral"/],
  ] as [Record<string, unknown>, RegExp][])('config.json with %j', async (config, words) => {
    const error: unknown = await openToy('llama', { config }).catch((thrown: unknown) => thrown)
    expect(String(error)).toMatch(words)
    expect(String(error)).not.toMatch(falseCures)
  })

  it.each([
    [[['rope.scaling.type', 'str', 'longrope']], /rope.scaling.type = "longrope"; allowed: none, linear, yarn/],
    [[['rope.scaling.type', 'str', 'dynamic']], /rope.scaling.type = "dynamic"/],
    [[['rope.dimension_count', 'int', 8]], /rope.dimension_count = 8; allowed: 16, the width of a head/],
    [[['expert_count', 'int', 8]], /a mixture of 8 experts/],
  ] as [Keys, RegExp][])('GGUF with %j', async (more, words) => {
    const refused: unknown = await openGguf('llama', {}, more).catch((thrown: unknown) => thrown)
    expect(String(refused)).toMatch(words)
    expect(String(refused)).not.toMatch(falseCures)
  })
})

describe('weights packed by other software', () => {
  it('are named where config.json says nothing of them', async () => {
    const name = 'model.layers.0.mlp.up_proj'
    const packed = openToy('llama', {
      without: [`${name}.weight`],
      add: { [`${name}.qweight`]: [8, 80], [`${name}.scales`]: [1, 80] },
    })
    await expect(packed).rejects.toThrow(/packed by GPTQ or AWQ \(tensor "model.layers.0.mlp.up_proj.qweight"\)/)
  })
})

describe('settings that do not fit', () => {
  it.each([
    [{ rope_scaling: { factor: 2 } }, 'rope_type missing'],
    [{ rope_scaling: { rope_type: 'linear', type: 'yarn', factor: 2 } }, 'as rope_type says'],
    [{ rope_scaling: { rope_type: 'linear' } }, 'factor missing'],
    [{ rope_scaling: 'linear' }, 'rope_scaling = "linear"; allowed: an object of settings, or null'],
    [{ rope_scaling: [] }, 'rope_scaling = []'],
    [{ rope_scaling: 4 }, 'rope_scaling = 4'],
    [{ rope_parameters: 'default' }, 'rope_parameters = "default"'],
    [{ rope_parameters: { rope_type: 'default', rope_theta: '1e6' } }, 'rope_theta = "1e6"'],
    [{ hidden_act: 3 }, 'hidden_act = 3'],
    [{ num_hidden_layers: 3_000_000 }, 'num_hidden_layers = 3000000 in a file of'],
    [{ num_hidden_layers: 2_000_000_000 }, 'num_hidden_layers = 2000000000 in a file of'],
    [{ model_type: 'qwen3', use_sliding_window: true, layer_types: ['full_attention'] }, 'layer_types'],
    [{ model_type: 'qwen3', layer_types: ['full_attention', 'linear_attention', 'full_attention'] }, 'layer_types'],
    [{ model_type: 'qwen2', layer_types: Array(3).fill('sliding_attention') }, 'use_sliding_window'],
    [{ model_type: 'mistral', sliding_window: 0 }, 'sliding_window = 0'],
  ] as [Record<string, unknown>, string][])('config.json with %j', async (config, words) => {
    await expect(openToy('llama', { config })).rejects.toThrow(words)
  })

  it.each([
    ['block_count', 'int', 3_000_000, 'block_count = 3000000 in a file of 21 tensors'],
    ['attention.head_count_kv', 'list', [2, 1], 'allowed: the same number in every layer'],
    ['attention.head_count_kv', 'list', [2, 2, 2], 'one for each of 2 layers'],
    ['attention.head_count_kv', 'list', [0, 0], 'one for each of 2 layers'],
    ['attention.head_count', 'list', [4, 2], 'the same number in every layer'],
    ['feed_forward_length', 'list', [80, 96], 'the same number in every layer'],
    ['rope.scaling.factor', 'float', -2, 'a positive number'],
  ] as [string, string, unknown, string][])('GGUF with %s of %s %j', async (key, type, value, words) => {
    await expect(openGguf('llama', {}, [[key, type, value]])).rejects.toThrow(words)
  })

  it('takes a window of 0 in a GGUF file for none', async () => {
    const { config } = await openGguf('llama', {}, [['attention.sliding_window', 'int', 0]])
    expect(config.slidingWindow).toBeUndefined()
  })
})

describe('a GGUF model in parts', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kvloom-parts-'))
  afterAll(() => fs.rmSync(folder, { recursive: true }))
  const toy = named(ggufToys, 'llama')
  const names = Object.keys(toy.tensors)
  const count = 3
  /** The n-th part, as gguf-split writes it: the first has the metadata of the model. */
  const part = (number: number): Uint8Array =>
    toyGguf(
      { ...toy, keys: number === 0 ? toy.keys : [] },
      {
        keys: [
          ['split.no', 'int', number],
          ['split.count', 'int', count],
          ['split.tensors.count', 'int', names.length],
        ],
        keep: (name) => names.indexOf(name) % count === number,
      },
    )
  const file = (number: number, name = 'toy'): string =>
    path.join(folder, `${name}-0000${number + 1}-of-0000${count}.gguf`)

  it('is loaded from any of them', async () => {
    for (let number = 0; number < count; number++) fs.writeFileSync(file(number), part(number))
    const whole = await loadModel({ file: bytesSource(toyGguf(toy), 'toy.gguf') })
    for (let number = 0; number < count; number++) {
      const model = await loadModel(file(number))
      expect(model.config).toEqual(whole.config)
      expect(model.shape.fingerprint).toBe(whole.shape.fingerprint)
      model.dispose()
    }
    whole.dispose()
  })

  it('is named where a part is missing, renamed, or alone', async () => {
    fs.writeFileSync(file(0, 'lost'), part(0))
    fs.writeFileSync(file(1, 'lost'), part(1))
    await expect(openModelFiles(file(0, 'lost'))).rejects.toThrow(/lost-00003-of-00003.gguf, part 3 of 3/)
    fs.writeFileSync(file(2, 'lost'), part(1))
    await expect(openModelFiles(file(0, 'lost'))).rejects.toThrow(/says it is part 2 of 3; allowed: part 3 of 3/)
    const renamed = path.join(folder, 'renamed.gguf')
    fs.writeFileSync(renamed, part(1))
    await expect(openModelFiles(renamed)).rejects.toThrow(/part 2 of a model in 3 GGUF files, under another name/)
    await expect(openModelFiles({ file: bytesSource(part(0), 'alone.gguf') })).rejects.toThrow(
      /alone.gguf, part 1 of a model in 3 GGUF files; allowed: a GGUF file with all of its tensors/,
    )
  })
})
