import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { definePick, openCache, ready } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { engineBackends } from './backend'
import { type GeneratedToken, generate, generateAll } from './generate'
import { loadModel, type Model } from './model'
import { openModelFiles } from './models/model-files'
import { prefill } from './prefill'
import { exact } from './testing/exact'
import { plainLlama } from './testing/plain-llama'
import { type RandomLlama, writeRandomLlama } from './testing/random-llama'
import type { Tokenizer } from './tokenizer/tokenizer'

const prompt = Int32Array.of(5, 9, 100, 31, 7)
const ids = { text: false, stopIds: [] } as const

let made: RandomLlama
beforeAll(async () => {
  made = await writeRandomLlama({ model_type: 'llama', max_position_embeddings: 40 })
})
afterAll(() => rm(made.folder, { recursive: true }))

describe('generate', () => {
  let model: Model
  beforeAll(async () => {
    model = await loadModel(made.folder, { backend: 'wasm' })
  })
  afterAll(() => model.dispose())

  it('greedy: the most likely token of the whole text so far, each time', async () => {
    const {
      ids: found,
      reason,
      promptTokens,
    } = await generateAll(model, { compressor: exact }, prompt, { ...ids, maxNewTokens: 8, chunk: 2 })
    const text = [...prompt]
    for (let i = 0; i < 8; i++) {
      const logits = plainLlama(made.config, made.weights, text).logits.at(-1)!
      text.push(logits.indexOf(Math.max(...logits)))
    }
    expect([...prompt, ...found]).toEqual(text)
    expect({ reason, promptTokens }).toEqual({ reason: 'length', promptTokens: 5 })
  })

  it('the same seed gives the same ids on every backend, another seed others', async () => {
    const sampled = async (seed: number, on: Model) => [
      ...(
        await generateAll(on, { compressor: exact }, prompt, {
          ...ids,
          maxNewTokens: 12,
          temperature: 1.2,
          topK: 40,
          topP: 0.95,
          seed,
        })
      ).ids,
    ]
    const first = await sampled(1, model)
    for (const backend of engineBackends) {
      const other = await loadModel(made.folder, { backend })
      expect(await sampled(1, other)).toEqual(first)
      other.dispose()
    }
    expect(await sampled(2, model)).not.toEqual(first)
  })

  it('streams: onToken and the iterator tell the same, in order', async () => {
    const called: GeneratedToken[] = []
    const yielded: GeneratedToken[] = []
    for await (const token of generate(model, { compressor: exact }, prompt, {
      ...ids,
      maxNewTokens: 4,
      onToken: (t) => called.push(t),
    }))
      yielded.push(token)
    expect(yielded).toEqual(called)
    expect(yielded.map((token) => token.index)).toEqual([0, 1, 2, 3])
  })

  it('stops at a stop id, which is not part of the text', async () => {
    const whole = (await generateAll(model, { compressor: exact }, prompt, { ...ids, maxNewTokens: 6 })).ids
    const stop = whole[3]!
    const { ids: found, reason } = await generateAll(model, { compressor: exact }, prompt, {
      text: false,
      stopIds: [stop],
      maxNewTokens: 6,
    })
    expect([...found]).toEqual([...whole.slice(0, whole.indexOf(stop))])
    expect(reason).toBe('stop')
  })

  it('ends where the context ends', async () => {
    const { ids: found, reason } = await generateAll(model, { compressor: exact }, prompt, {
      ...ids,
      maxNewTokens: 100,
    })
    // 40 positions: 5 of the prompt, 35 new tokens stored, one more known.
    expect({ length: found.length, reason }).toEqual({ length: 36, reason: 'context' })
  })

  it('refuses a prompt beyond what a stream can keep before any work, with a cure that cures', async () => {
    const stream = (recent: number) =>
      definePick({
        name: 'stream',
        when: 'room',
        options: {},
        by: 'positions',
        tokenSets: 'model',
        pick: () => ({
          needs: {},
          positions: 'slot',
          chunkLimit: recent,
          count: (tokens, incoming) => Math.min(tokens, Math.max(0, recent - incoming)),
          keep: (tokens, count) => [{ start: tokens - count, end: tokens }],
        }),
      })()
    const cache = openCache(model.shape, stream(41))
    const long = Array.from({ length: 45 }, (_, i) => i + 1)
    await expect(prefill(model, cache, long)).rejects.toThrow(/let stream keep fewer rows than the context has/)
    expect([cache.tokensSeen, cache.contextLeft]).toEqual([0, 40])
    cache.dispose()
    const { ids: found, reason } = await generateAll(model, stream(40), long, { ...ids, maxNewTokens: 5 })
    expect({ found: found.length, reason }).toEqual({ found: 5, reason: 'length' })
  })

  it('goes on in a cache of the caller', async () => {
    const cache = openCache(model.shape, ready(exact))
    const first = (await generateAll(model, cache, prompt, { ...ids, maxNewTokens: 3 })).ids
    expect(cache.tokensSeen).toBe(7)
    const second = (await generateAll(model, cache, first.slice(-1), { ...ids, maxNewTokens: 3 })).ids
    cache.dispose()
    expect([...first, ...second]).toEqual([
      ...(await generateAll(model, { compressor: ready(exact) }, prompt, { ...ids, maxNewTokens: 6 })).ids,
    ])
  })

  it('frees its cache when it ends, fails, is aborted or is left', async () => {
    const before = tf.memory().numTensors
    const stopped = new AbortController()
    const aborted = generateAll(model, { compressor: exact }, prompt, {
      ...ids,
      signal: stopped.signal,
      onToken: () => stopped.abort(new Error('enough')),
    })
    await expect(aborted).rejects.toThrow('enough')
    for await (const _ of generate(model, { compressor: exact }, prompt, ids)) break
    await expect(generateAll(model, { compressor: exact }, new Int32Array(41), ids)).rejects.toMatchObject({
      code: 'CONTEXT_OVERFLOW',
    })
    for (const at of [2, 4, prompt.length]) {
      const onPrefill = ({ tokens }: { tokens: number }) => {
        if (tokens === at) throw new Error('thrown by the caller')
      }
      const failing = generateAll(model, { compressor: exact }, prompt, { ...ids, chunk: 2, onPrefill })
      await expect(failing).rejects.toThrow('thrown by the caller')
    }
    expect(tf.memory().numTensors).toBe(before)
  })

  it.each([{ maxNewTokens: 0 }, { seed: 0.5 }, { stopIds: [131] }, { temperature: -1 }, { topK: 0 }, { topP: 2 }])(
    'refuses %j at once',
    (options) => {
      expect(() => generate(model, { compressor: exact }, prompt, { text: false, ...options })).toThrow(
        expect.objectContaining({ code: 'OPTION' }),
      )
    },
  )

  const asIds = (value: unknown) => value as Int32Array
  it.each([
    ['nothing', undefined, 'NOT_IDS', /undefined/],
    ['a number', 5, 'NOT_IDS', /5/],
    ['an object', { length: 1, 0: 5 }, 'NOT_IDS', /an object/],
    ['NaN', [5, NaN], 'BAD_ID', /NaN at index 1.*0 to 130/],
    ['a fraction', [1.5], 'BAD_ID', /1\.5 at index 0/],
    ['a negative id', Int32Array.of(5, 9, -1), 'BAD_ID', /-1 at index 2/],
    ['an id beyond the vocabulary', [5, 131], 'BAD_ID', /131 at index 1/],
    ['a text among ids', [5, '9'], 'BAD_ID', /the text "9" at index 1/],
    ['nothing among ids', [5, undefined], 'BAD_ID', /undefined at index 1/],
    ['a hole', Object.assign([], { 2: 5 }), 'BAD_ID', /undefined at index 0/],
    ['bigints', BigInt64Array.of(5n), 'BAD_ID', /bigint.* at index 0/],
  ] as [string, unknown, string, RegExp][])(
    'refuses %s as prompt, at once and in forward',
    async (_, given, code, message) => {
      const cache = openCache(model.shape, ready(exact))
      const refused = expect.objectContaining({ code, message: expect.stringMatching(message) })
      expect(() => generate(model, cache, asIds(given), ids)).toThrow(refused)
      await expect(generateAll(model, cache, asIds(given), ids)).rejects.toEqual(refused)
      await expect(model.forward(cache, asIds(given), 'prompt')).rejects.toEqual(refused)
      expect(cache.tokensSeen).toBe(0)
      cache.dispose()
    },
  )

  it('refuses a text in the place of ids where ids alone are taken', () =>
    expect(model.forward(openCache(model, exact), asIds('hello'), 'prompt')).rejects.toMatchObject({
      code: 'NOT_IDS',
      message: expect.stringMatching(/the text "hello".*tokenizer\.encode/),
    }))

  it('takes numbers in an array', async () => {
    const options = { ...ids, maxNewTokens: 3 }
    const expected = (await generateAll(model, { compressor: exact }, prompt, options)).ids
    expect((await generateAll(model, { compressor: exact }, [...prompt], options)).ids).toEqual(expected)
    expect((await generateAll(model, { compressor: exact }, asIds(Uint16Array.from(prompt)), options)).ids).toEqual(
      expected,
    )
  })

  it.each([
    ['nothing', undefined],
    ['a text', 'exact'],
    ['an object', {}],
    ['a method that was not called', () => exact],
    ['an object of another compressor', { compressor: {} }],
  ])('refuses %s in the place of a cache', (_, into) => {
    expect(() => generate(model, into as never, prompt, ids)).toThrow(
      expect.objectContaining({ code: 'OPTION', message: expect.stringContaining('a compressor, such as') }),
    )
  })

  it.each([
    ['nothing', undefined, /undefined; allowed: a model of loadModel/],
    ['a name', 'tiny', /"tiny"/],
    ['a model that is still loading', Promise.resolve(), /await/],
  ])('refuses %s in the place of a model', (_, given, message) => {
    expect(() => generate(given as never, exact, prompt, ids)).toThrow(
      expect.objectContaining({ code: 'OPTION', message: expect.stringMatching(message) }),
    )
  })

  it('refuses an option it does not know, with the nearest', () => {
    expect(() => generate(model, exact, prompt, { maxNewToken: 3 } as never)).toThrow(/Did you mean "maxNewTokens"/)
  })

  it('takes a compressor as it is, and leaves a cache that was given open', async () => {
    const options = { ...ids, maxNewTokens: 3 }
    const { ids: expected } = await generateAll(model, { compressor: exact }, prompt, options)
    const before = tf.memory().numBytes
    for (const into of [exact, ready(exact)])
      expect((await generateAll(model, into, prompt, options)).ids).toEqual(expected)
    expect(tf.memory().numBytes).toBe(before)
    const cache = openCache(model, exact)
    expect((await generateAll(model, cache, prompt, options)).ids).toEqual(expected)
    expect(cache.tokensSeen).toBe(prompt.length + 2)
    expect(cache.bytes().total).toBe(tf.memory().numBytes - before)
    cache.dispose()
  })

  it('needs the tokenizer only for text', () => {
    expect(() => model.tokenizer).toThrow(/tokenizer.json/)
    return expect(generateAll(model, { compressor: exact }, prompt, {})).rejects.toMatchObject({ code: 'FILE_MISSING' })
  })

  it('holds an incomplete character back, and gives it as U+FFFD at the end', async () => {
    const bytes = [0xe2, 0x82, 0xac, 0x41, 0xc3]
    const decoder = () => new TextDecoder()
    const tokenizer = {
      stream: () => {
        const utf8 = decoder()
        let at = 0
        return { push: () => utf8.decode(Uint8Array.of(bytes[at++]!), { stream: true }), end: () => utf8.decode() }
      },
    } as Partial<Tokenizer> as Tokenizer
    const speaking: Model = Object.create(model, { tokenizer: { value: tokenizer } })
    const pieces: string[] = []
    const { text } = await generateAll(speaking, { compressor: exact }, prompt, {
      stopIds: [],
      maxNewTokens: 5,
      onToken: (t) => pieces.push(t.text),
    })
    expect(pieces).toEqual(['', '', '€', 'A', ''])
    expect(text).toBe('€A\ufffd')
  })
})

describe('loadModel', () => {
  it('reports progress, and frees everything when aborted', async () => {
    const seen: number[] = []
    const stopped = new AbortController()
    const before = tf.memory().numTensors
    const onProgress = ({ bytes, totalBytes }: { bytes: number; totalBytes: number }) => {
      seen.push(bytes / totalBytes)
      if (seen.length === 9) stopped.abort(new Error('enough'))
    }
    await expect(loadModel(made.folder, { backend: 'cpu', onProgress, signal: stopped.signal })).rejects.toThrow(
      'enough',
    )
    expect(seen).toHaveLength(9)
    expect(tf.memory().numTensors).toBe(before)
    seen.length = 0
    const model = await loadModel(await openModelFiles(made.folder), {
      backend: 'cpu',
      onProgress: (p) => seen.push(p.bytes / p.totalBytes),
    })
    expect(seen.at(-1)).toBe(1)
    expect(model.weightBytes).toBe(tf.memory().numBytes)
    model.dispose()
    model.dispose()
    expect(tf.memory().numTensors).toBe(before)
  })

  it('takes a name, and says what is wrong with another', async () => {
    const tiny = await loadModel('tiny', { backend: 'cpu' })
    expect(tiny.config.vocabSize).toBe(260)
    tiny.dispose()
    for (const [name, cure] of [
      ['nowhere', /"nowhere", where no file or folder is.*"tiny", "smollm2-135m-instruct".*resolveModel\(\)/],
      ['models/absent.gguf', /"models\/absent.gguf", where no file or folder is.*owner\/repo/],
      ['', /""/],
      ['a\0b', /where no file/],
      [7 as never, /of type number/],
      [null as never, /of type object/],
      [undefined as never, /of type undefined/],
    ] as const) {
      const refused = expect.objectContaining({ code: 'FILE_MISSING', message: expect.stringMatching(cure) })
      await expect(loadModel(name), String(name)).rejects.toEqual(refused)
    }
  })

  it('says where the model came from', async () => {
    const tiny = await loadModel('tiny', { backend: 'cpu' })
    expect(tiny.origin).toMatchObject({ name: 'tiny', source: 'tiny', path: expect.stringContaining('tiny-model') })
    tiny.dispose()
    const own = await loadModel(made.folder, { backend: 'cpu' })
    expect(own.origin).toEqual({ name: made.folder, source: 'path', path: made.folder })
    own.dispose()
  })

  it('looks for a name of the Hub in the cache, and offline nowhere else', async () => {
    const cacheDir = join(made.folder, 'no-models')
    await expect(loadModel('owner/mini', { cacheDir, offline: true })).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining(cacheDir),
    })
  })

  it('refuses an option it does not know, with the nearest', async () => {
    await expect(loadModel('tiny', { bakend: 'cpu' } as never)).rejects.toMatchObject({
      code: 'OPTION',
      message: expect.stringContaining('Did you mean "backend"?'),
    })
    await expect(loadModel('tiny', 'cpu' as never)).rejects.toMatchObject({ code: 'OPTION' })
  })

  it('refuses a backend it does not know', async () => {
    // @ts-expect-error not a backend
    await expect(loadModel(made.folder, { backend: 'abacus' })).rejects.toMatchObject({ code: 'UNKNOWN_BACKEND' })
  })

  it('tells weights apart by their fingerprint, and the same weights not', async () => {
    const other = await writeRandomLlama({ model_type: 'llama', max_position_embeddings: 40 }, 'F32', 2)
    const fingerprints: string[] = []
    for (const folder of [made.folder, made.folder, other.folder]) {
      const model = await loadModel(folder, { backend: 'cpu' })
      fingerprints.push(model.shape.fingerprint)
      model.dispose()
    }
    await rm(other.folder, { recursive: true })
    expect(fingerprints[0]).toBe(fingerprints[1])
    expect(fingerprints[0]).not.toBe(fingerprints[2])
    expect(fingerprints[0]).toMatch(/^[0-9a-f]{32}$/)
  })

  it('holds bf16 as f16 where that is exact, else as f32, and gives the original weights', async () => {
    const half = await writeRandomLlama({ model_type: 'llama' }, 'BF16')
    const model = await loadModel(half.folder, { backend: 'wasm' })
    for (const { name, held } of model.held) {
      const values = half.weights.get(name)!
      if (values.length > 200)
        expect(held, name).toBe(values.every((v) => Number.isInteger(v * 2 ** 24)) ? 'f16' : 'f32')
    }
    expect(new Set(model.held.map((each) => each.held))).toEqual(new Set(['f16', 'f32']))
    const weight = await model.weights.get('layers.1.attention.key')
    expect(weight.shape).toEqual([16, 48])
    expect(await weight.data()).toEqual(half.weights.get('layers.1.attention.key'))
    weight.dispose()
    expect(model.weights.names()).toContain('layers.2.mlp.down')
    model.dispose()
    await rm(half.folder, { recursive: true })
  })

  it('offers a sliding-window model up to its window', async () => {
    const windowed = await writeRandomLlama({ model_type: 'mistral', sliding_window: 16 })
    const model = await loadModel(windowed.folder, { backend: 'cpu' })
    expect(model.shape.contextLength).toBe(16)
    model.dispose()
    await rm(windowed.folder, { recursive: true })
  })
})
