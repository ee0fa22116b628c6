// Every toy of the fixtures, saved and loaded again. With KVLOOM_SAVED_TOYS=FOLDER the folders stay there, with the logits of the
// model they came from: `tools/engine-fixtures/families.py --folder FOLDER/*` runs them in transformers.
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { bytesSource } from './files/byte-source'
import { loadModel } from './model'
import type { ModelLocation } from './models/model-files'
import { saveModel } from './save-model'
import { runToy } from './testing/toy-run'
import { type Toy, toyFixture, toyFolder, toyIds } from './testing/toys'
import { type GgufToy, toyGguf } from './testing/toys-gguf'

const kept = process.env['KVLOOM_SAVED_TOYS']
let folder: string
beforeAll(async () => {
  folder = kept ?? (await fs.mkdtemp(path.join(os.tmpdir(), 'kvloom-saved-toys-')))
})
afterAll(() => (kept ? undefined : fs.rm(folder, { recursive: true })))

const transformers = await toyFixture<Toy>('transformers')
const llamaCpp = await toyFixture<GgufToy>('llama-cpp')
const toys: readonly (readonly [string, ModelLocation])[] = [
  ...transformers.cases.map((toy) => [toy.name, { folder: toyFolder(toy) }] as const),
  ...llamaCpp.cases
    .filter(({ refused }) => !refused)
    .map((toy) => [`gguf ${toy.name}`, { file: bytesSource(toyGguf(toy), 'toy.gguf') }] as const),
]

/** A model whose RoPE config.json has no words for. */
const ownWords =
  /rope_freqs|attn_factor alone|linear with attn_factor|half extrapolation|extrapolation, attention factor/

describe('saved and loaded again', () => {
  it.each(toys)('%s: the same shape and logits, to the last bit', async (name, location) => {
    const model = await loadModel(location)
    const place = path.join(folder, name.replace(/\W+/g, '-'))
    await saveModel(model, place)
    const again = await loadModel(place)
    expect(again.shape).toEqual(model.shape)
    expect(again.config.eosIds).toEqual(model.config.eosIds)
    const ids = toyIds(Math.min(transformers.tokens, model.shape.contextLength), model.config.vocabSize)
    const [{ all: before }, { all: after }] = [await runToy(model, ids, 0), await runToy(again, ids, 0)]
    expect(after).toEqual(before)
    const config = JSON.parse(await fs.readFile(path.join(place, 'config.json'), 'utf8')) as { model_type: string }
    expect(config.model_type.startsWith('kvloom-')).toBe(ownWords.test(name))
    if (kept)
      await fs.writeFile(path.join(place, 'kvloom-logits.json'), JSON.stringify({ ids: [...ids], logits: [...before] }))
    model.dispose()
    again.dispose()
  })

  it('says in config.json what transformers would take otherwise', async () => {
    const settingsOf = async (name: string): Promise<Record<string, unknown>> => {
      const toy = transformers.cases.find((each) => each.name === name)
      if (!toy) throw new Error(`no toy ${name}`)
      const model = await loadModel({ folder: toyFolder(toy) })
      const place = path.join(folder, `said-${name.replace(/\W+/g, '-')}`)
      await saveModel(model, place)
      model.dispose()
      const text = await fs.readFile(path.join(place, 'config.json'), 'utf8')
      await fs.rm(place, { recursive: true })
      return JSON.parse(text) as Record<string, unknown>
    }
    expect(await settingsOf('llama, all biases')).toMatchObject({
      attention_bias: true,
      mlp_bias: true,
      hidden_act: 'gelu_pytorch_tanh',
    })
    expect(await settingsOf('llama, quick_gelu')).toMatchObject({ hidden_act: 'quick_gelu', mlp_bias: false })
    expect(await settingsOf('mistral, window null')).toMatchObject({ sliding_window: null })
    expect(await settingsOf('qwen2, a window in the last layers')).toMatchObject({
      use_sliding_window: true,
      sliding_window: 9,
      max_window_layers: 1,
    })
    expect(await settingsOf('qwen3, a window in the middle')).toMatchObject({
      layer_types: ['full_attention', 'sliding_attention', 'full_attention'],
    })
    expect(await settingsOf('qwen2, yarn, not truncated')).toMatchObject({ rope_scaling: { truncate: false } })
  })
})
