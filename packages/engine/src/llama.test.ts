import { rm } from 'node:fs/promises'
import { type KVCompressor, openCache, ready } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { DenseCache, type Incoming } from '../../../examples/dense-cache/dense-cache'
import { engineBackends } from './backend'
import { loadModel } from './model'
import { prefill } from './prefill'
import { difference } from './testing/golden'
import { type PlainResult, plainLlama } from './testing/plain-llama'
import { type RandomLlama, type RandomLlamaSettings, writeRandomLlama } from './testing/random-llama'

/** float32 against float64 over three layers, logits of about unit size. */
const LOGITS = 1e-4
/** Largest error of keys and values over their largest value. */
const ROWS = 1e-5
/** float32 against float32 with sums in another order. */
const ORDER = 2e-5

const exact: KVCompressor = {
  card: { name: 'exact', title: 'Exact', summary: 'Every row, in f32.', chunkInvariant: true },
  stages: [],
  store: 'f32',
}

const variants: readonly (readonly [string, RandomLlamaSettings])[] = [
  ['llama with grouped queries and tied embeddings', { model_type: 'llama' }],
  [
    'llama with untied embeddings and one KV head',
    { model_type: 'llama', tie_word_embeddings: false, num_key_value_heads: 1 },
  ],
  [
    'llama 3 rope scaling',
    {
      model_type: 'llama',
      rope_theta: 500_000,
      rope_scaling: {
        rope_type: 'llama3',
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 64,
      },
    },
  ],
  ['linear rope scaling', { model_type: 'llama', rope_scaling: { type: 'linear', factor: 4 } }],
  ['qwen2 with biases', { model_type: 'qwen2', num_key_value_heads: 6, rms_norm_eps: 1e-6 }],
  [
    'qwen2.5 with YaRN',
    { model_type: 'qwen2', rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 64 } },
  ],
  ['qwen3 with norms per head and wide heads', { model_type: 'qwen3', head_dim: 16, tie_word_embeddings: false }],
  ['mistral with a window', { model_type: 'mistral', sliding_window: 64 }],
]
const ids = Array.from({ length: 21 }, (_, i) => (i * 37 + 5) % 131)

describe.each(variants)('%s', (_, settings) => {
  let made: RandomLlama
  let plain: PlainResult
  beforeAll(async () => {
    made = await writeRandomLlama(settings)
    plain = plainLlama(made.config, made.weights, ids)
  })
  afterAll(() => rm(made.folder, { recursive: true }))

  it.each(engineBackends)('on %s: as the float64 witness, whole and in chunks, in both caches', async (backend) => {
    const expected = flat(plain.logits)
    const model = await loadModel(made.folder, { backend })
    const before = tf.memory().numTensors
    for (const chunk of [ids.length, 1, 8])
      for (const cache of [openCache(model.shape, ready(exact)), new DenseCache(model.shape)]) {
        const logits = new Float32Array(expected.length)
        const visit = async (from: number, part: tf.Tensor): Promise<void> => {
          logits.set((await part.data()) as Float32Array, from * model.config.vocabSize)
        }
        expect(await prefill(model, cache, Int32Array.from(ids), { chunk, logits: { visit, rows: 5 } })).toBeNull()
        expect(difference(logits, expected).absolute, `logits, chunk ${chunk}`).toBeLessThan(LOGITS)
        for (let layer = 0; layer < model.config.layers; layer++) {
          const { keys, values } = await cache.materialize(layer)
          expect(difference(await keys.data(), flat(plain.keys[layer]!)).relative, `keys ${layer}`).toBeLessThan(ROWS)
          expect(difference(await values.data(), flat(plain.values[layer]!)).relative, `values ${layer}`).toBeLessThan(
            ROWS,
          )
          tf.dispose([keys, values])
        }
        cache.dispose()
      }
    expect(tf.memory().numTensors).toBe(before)
    model.dispose()
    expect(tf.memory().numTensors).toBe(0)
  })
})

describe('forward', () => {
  let made: RandomLlama
  beforeAll(async () => {
    made = await writeRandomLlama({ model_type: 'llama' }, 'BF16')
  })
  afterAll(() => rm(made.folder, { recursive: true }))

  it('gives the last logits, all, or none; chunks make no difference', async () => {
    const model = await loadModel(made.folder, { backend: 'wasm' })
    const step = Int32Array.from(ids)
    const run = async (logits: 'last' | 'all' | 'none') => {
      const cache = new DenseCache(model.shape)
      const result = await model.forward(cache, step, 'promptEnd', { logits })
      cache.dispose()
      const values = result && ((await result.data()) as Float32Array)
      const shape = result?.shape
      result?.dispose()
      return { values, shape }
    }
    const [last, all, none] = [await run('last'), await run('all'), await run('none')]
    expect(none.values).toBeNull()
    expect(last.shape).toEqual([1, 131])
    expect(all.shape).toEqual([21, 131])
    expect(difference(last.values!, all.values!.slice(-131)).absolute).toBeLessThan(ORDER)
    model.dispose()
  })

  it('hands over queries alone where a layer reads the rows of another', async () => {
    const model = await loadModel(made.folder, { backend: 'wasm' })
    const handed: string[] = []
    class Sharing extends DenseCache {
      override async attend(layer: number, now: Incoming): Promise<tf.Tensor> {
        handed.push(Object.keys(now).join())
        return super.attend(layer, now)
      }
    }
    const sources = { 2: 0 }
    const expected = plainLlama(made.config, made.weights, ids, { sources })
    const before = tf.memory().numTensors
    const cache = new Sharing(model.shape, sources)
    const logits = (await model.forward(cache, Int32Array.from(ids.slice(0, -1)), 'promptEnd', { logits: 'all' }))!
    const last = (await model.forward(cache, Int32Array.from(ids.slice(-1)), 'decode'))!
    expect(difference([...(await logits.data()), ...(await last.data())], flat(expected.logits)).absolute).toBeLessThan(
      LOGITS,
    )
    const all = 'queries,keys,values'
    expect(handed).toEqual([all, all, 'queries', all, all, 'queries'])
    tf.dispose([logits, last])
    cache.dispose()
    expect(tf.memory().numTensors).toBe(before)
    model.dispose()
  })

  it('gives the final hidden states', async () => {
    const model = await loadModel(made.folder, { backend: 'wasm' })
    const cache = new DenseCache(model.shape)
    const hidden = (await model.forward(cache, Int32Array.from(ids), 'promptEnd', { logits: 'hidden' }))!
    expect(hidden.shape).toEqual([21, 48])
    const { hidden: expected } = plainLlama(made.config, made.weights, ids)
    expect(difference(await hidden.data(), flat(expected)).absolute).toBeLessThan(LOGITS)
    tf.dispose(hidden)
    cache.dispose()
    model.dispose()
  })

  it('tells the phases and the last logits of a prompt in parts', async () => {
    const model = await loadModel(made.folder, { backend: 'cpu' })
    const cache = new DenseCache(model.shape)
    const seen: number[] = []
    await prefill(model, cache, Int32Array.from(ids.slice(0, 3)), { endsPrompt: false, logits: 'none' })
    const last = await prefill(model, cache, Int32Array.from(ids.slice(3)), {
      chunk: 7,
      onProgress: (p) => seen.push(p.tokens),
    })
    expect(cache.phases).toEqual(['prompt', 'prompt', 'prompt', 'promptEnd'])
    expect(seen).toEqual([7, 14, 18])
    const expected = plainLlama(made.config, made.weights, ids).logits.at(-1)!
    expect(difference(await last!.data(), expected).absolute).toBeLessThan(LOGITS)
    tf.dispose(last!)
    cache.dispose()
    model.dispose()
  })

  it('refuses what it cannot run before anything is stored', async () => {
    const model = await loadModel(made.folder, { backend: 'cpu' })
    const cache = openCache(model.shape, ready(exact))
    const codes = async (run: Promise<unknown>) =>
      run.then(
        () => 'fine',
        (error: { code?: string }) => error.code,
      )
    expect(await codes(model.forward(cache, Int32Array.of(), 'decode'))).toBe('NO_TOKENS')
    expect(await codes(model.forward(cache, Int32Array.of(131), 'decode'))).toBe('BAD_ID')
    expect(await codes(model.forward(cache, Int32Array.of(-1), 'decode'))).toBe('BAD_ID')
    const other = openCache({ ...model.shape, fingerprint: 'other' }, ready(exact))
    expect(await codes(model.forward(other, Int32Array.of(1), 'decode'))).toBe('OTHER_MODEL')
    expect(await codes(prefill(model, cache, new Int32Array(257)))).toBe('CONTEXT_OVERFLOW')
    expect(await codes(prefill(model, cache, new Int32Array(4), { chunk: 0 }))).toBe('OPTION')
    expect(await codes(prefill(model, cache, new Int32Array(0)))).toBe('OPTION')
    const reason = new Error('enough')
    await expect(prefill(model, cache, new Int32Array(4), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    expect(cache.tokensSeen).toBe(0)
    model.dispose()
    expect(await codes(model.forward(cache, Int32Array.of(1), 'decode'))).toBe('DISPOSED')
    cache.dispose()
    other.dispose()
  })

  it('frees everything when a cache throws in the middle of a step', async () => {
    class Failing extends DenseCache {
      override async attend(layer: number, now: Incoming): Promise<tf.Tensor> {
        if (layer === 1) throw new Error('layer 1')
        return super.attend(layer, now)
      }
    }
    const model = await loadModel(made.folder, { backend: 'wasm' })
    const before = tf.memory().numTensors
    const cache = new Failing(model.shape)
    await expect(model.forward(cache, Int32Array.of(1, 2), 'prompt')).rejects.toThrow('layer 1')
    cache.dispose()
    expect(tf.memory().numTensors).toBe(before)
    model.dispose()
  })
})

const flat = (rows: readonly Float64Array[]): number[] => rows.flatMap((row) => [...row])
