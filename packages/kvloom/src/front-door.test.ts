/** The front door on the tiny model: the same defaults as the command line, and wrong calls refused in words. */
import { memory } from '@tensorflow/tfjs-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  aquaKv,
  calibrateOn,
  compare,
  compose,
  composition,
  generate,
  generateAll,
  KvloomError,
  kivi,
  loadModel,
  type Model,
  openCache,
  prepareComposition,
  restoreCache,
  snapkv,
} from './index'

let model: Model
beforeAll(async () => {
  model = await loadModel('tiny')
})
afterAll(() => model.dispose())

const MIX = 'snapkv(keep=0.5)+kivi(bits=2, residual=32)'
const PROMPT = 'Call me Ishmael. Some years ago, never mind how long precisely. '.repeat(8)

describe('the ten lines', () => {
  it('mix by text or by call, the same', async () => {
    const built = compose(snapkv({ keep: 0.5 }), kivi({ bits: 2, residual: 32 }))
    expect(composition(MIX).stages.map(({ id, options }) => [id, options])).toEqual(
      built.stages.map(({ id, options }) => [id, options]),
    )
  })

  it('generate into a cache that can be looked at', async () => {
    const before = memory().numBytes
    const cache = openCache(model, composition(MIX))
    const { ids, promptTokens } = await generateAll(model, cache, PROMPT, { maxNewTokens: 12 })
    expect(promptTokens).toBe(PROMPT.length + (model.tokenizer.addsBos ? 1 : 0))
    expect(ids.length).toBe(12)
    expect(cache.bytes().total).toBe(memory().numBytes - before)
    expect(cache.bytes().total).toBeLessThan(halfPrecisionBytes())
    cache.dispose()
    expect(memory().numBytes).toBe(before)
  })

  it('fork a cache and roll it back', async () => {
    const before = memory().numBytes
    const cache = openCache(model, composition('kivi(residual=128)'))
    const { ids } = await generateAll(model, cache, 'Call me', { maxNewTokens: 12 })
    const fork = cache.fork()
    fork.rollback(5)
    expect(cache.tokensSeen - fork.tokensSeen).toBe(5)
    // The same tokens follow again where the fork was rolled back to.
    const again = await generateAll(model, fork, [...ids.subarray(6, 7)], { maxNewTokens: 5 })
    expect([...again.ids]).toEqual([...ids.subarray(7)])
    for (const each of [fork, cache]) each.dispose()
    expect(memory().numBytes).toBe(before)
  })

  it('continue a cache with a text that gets no second start token', async () => {
    const cache = openCache(model, kivi())
    await generateAll(model, cache, 'Once', { maxNewTokens: 1 })
    const seen = cache.tokensSeen
    await generateAll(model, cache, ' upon', { maxNewTokens: 1 })
    expect(cache.tokensSeen - seen).toBe(' upon'.length)
    cache.dispose()
  })

  it('compare texts, compressors and names, with protocol and sizes chosen', async () => {
    const report = await compare({
      model,
      tokens: 240,
      passkeys: 0,
      decodeTokens: 2,
      compositions: [MIX, kivi({ bits: 4 }), { name: 'two bits', compressor: kivi() }, MIX],
    })
    expect(report.protocol).toMatchObject({ name: 'E', tokens: 240, promptTokens: 160 })
    expect(report.compositions.map((c) => [c.name, c.status])).toEqual([
      [MIX, 'done'],
      ['kivi', 'done'],
      ['two bits', 'done'],
      [`${MIX} #2`, 'done'],
    ])
    expect([report.model.name, report.text.name]).toEqual(['tiny', 'bundled sample (public domain)'])
    const { footprint, quality } = report.compositions[0]?.result ?? {}
    expect(footprint?.residentBits).toBeLessThan(16)
    expect(quality?.perplexity).toBeGreaterThan(1)
    const byName = await compare({ model, tokens: 120, passkeys: 0, decodeTokens: 0, compositions: { half: 'kivi' } })
    expect([byName.protocol.name, byName.compositions[0]?.name]).toEqual(['P', 'half'])
  })

  it('fit what learns on the bundled text or a given one', async () => {
    const compressor = aquaKv({ bits: 2, block: 16 })
    const ready = await calibrateOn(model, compressor, { sequences: 2, tokens: 128 })
    const cache = openCache(model, ready)
    expect((await generateAll(model, cache, PROMPT, { maxNewTokens: 4 })).ids).toHaveLength(4)
    cache.dispose()
  })
})

/** What the rows of the same tokens take without a compressor. */
const halfPrecisionBytes = (): number => {
  const { layers, kvHeads, keyDim, valueDim } = model.shape
  return layers * kvHeads * (keyDim + valueDim) * (PROMPT.length + 12) * 2
}

describe('wrong calls', () => {
  const wrong: readonly (readonly [string, () => unknown, RegExp])[] = [
    ['loadModel: a misspelt option', () => loadModel('tiny', { bakend: 'cpu' } as never), /Did you mean "backend"/],
    ['loadModel: nothing', () => loadModel(undefined as never), /type undefined/],
    ['loadModel: a path that is not there', () => loadModel('models/absent.gguf'), /where no file or folder is/],
    ['openCache: no compressor', () => openCache(model, undefined as never), /compressor is undefined/],
    ['openCache: a text', () => openCache(model, 'kivi' as never), /compressor is "kivi"/],
    ['openCache: a method not called', () => openCache(model, kivi as never), /Call it/],
    ['openCache: no model', () => openCache(undefined as never, kivi()), /model is undefined/],
    ['openCache: one that learns', () => openCache(model, aquaKv()), /needs calibration/],
    ['restoreCache: a path', () => restoreCache(model, kivi(), 'x.bin' as never), /serialize/],
    ['generate: a model still loading', () => generate(loadModel('tiny') as never, kivi(), 'a'), /await/],
    ['generate: no compressor', () => generate(model, undefined as never, 'a'), /a compressor, such as/],
    ['generate: a misspelt option', () => generate(model, kivi(), 'a', { maxTokens: 3 } as never), /maxNewTokens/],
    ['generate: an empty text that continues a cache', () => generateEmpty(), /at least one token/],
    ['generate: a number', () => generate(model, kivi(), 5 as never), /token ids/],
    ['composition: nothing', () => composition(undefined as never), /as text/],
    ['composition: misspelt', () => composition('kivy'), /did you mean "kivi"/],
    ['composition: a misspelt option', () => composition('kivi(bit=2)'), /did you mean "bits"/],
    ['composition: a name in front', () => composition('onLayers(which=[0], kivi)'), /without "which="/],
    ['compare: nothing', () => compare(undefined as never), /an object of options/],
    ['compare: no compositions', () => compare({ model } as never), /compositions is undefined/],
    ['compare: an empty list', () => compare({ model, compositions: [] }), /at least one/],
    ['compare: a method not called', () => compare({ model, compositions: [kivi as never] }), /Call it/],
    ['compare: a name for a model', () => compare({ model: 'tiny' as never, compositions: ['none'] }), /loadModel/],
    ['compare: a misspelt option', () => compare({ model, compositions: ['none'], token: 9 } as never), /"tokens"/],
    ['compare: a protocol', () => compare({ model, compositions: ['none'], protocol: 'X' as never }), /"P", "E"/],
    ['compare: half a token', () => compare({ model, compositions: ['none'], tokens: 0.5 }), /whole number/],
    ['compare: no text', () => compare({ model, compositions: ['none'], text: '' }), /not empty/],
    ['calibrateOn: a text', () => calibrateOn(model, 'aqua-kv' as never), /compressor is "aqua-kv"/],
    ['calibrateOn: no model', () => calibrateOn(undefined as never, aquaKv()), /model is undefined/],
    ['calibrateOn: misspelt', () => calibrateOn(model, aquaKv(), { token: 3 } as never), /"tokens"/],
    ['prepareComposition: no compressor', () => prepareComposition({ model } as never), /compressor is undefined/],
    ['rollback: too far', () => openedOnce((cache) => cache.rollback(9)), /rollback\(\) was asked to forget 9/],
  ]
  it.each(wrong)('%s', async (_, call, message) => {
    const error = await Promise.resolve()
      .then(call)
      .then(
        () => null,
        (thrown: unknown) => thrown,
      )
    expect(error).toBeInstanceOf(KvloomError)
    expect(KvloomError.isInstance(error)).toBe(true)
    expect((error as KvloomError).message).toMatch(message)
  })
})

function openedOnce(use: (cache: ReturnType<typeof openCache>) => unknown): unknown {
  const cache = openCache(model, kivi())
  try {
    return use(cache)
  } finally {
    cache.dispose()
  }
}

/** An empty text behind what a cache holds gives no token at all. */
async function generateEmpty(): Promise<unknown> {
  const cache = openCache(model, kivi())
  try {
    await generateAll(model, cache, 'a', { maxNewTokens: 1 })
    return await generateAll(model, cache, '')
  } finally {
    cache.dispose()
  }
}
