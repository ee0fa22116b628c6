/** Mixes that one layer alone cannot judge, numbers that grow on their way into the cache, and going back behind what made room. */
import { syntheticModel } from '@kvloom/conformance'
import {
  CacheStateError,
  compose,
  evenWindows,
  exceptLayers,
  IncompatibleStages,
  type KVCache,
  type KVCompressor,
  ModelMismatch,
  NonFiniteError,
  OptionError,
  onLayers,
  openCache,
  type Phase,
  protectLayers,
  ready,
  WindowError,
  window,
} from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import { dispose, fill, memory, setBackend, tensor3d } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { blockFormats, freqkv, higgs, kivi, linearPredictor, minicache, snapkv, streamingLlm } from './index'

const model = { ...syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 32, valueDim: 32 }), layers: 4 }
const zoned = (c: KVCompressor, sinks = 0): KVCompressor => window(evenWindows({ sinks, block: 4 }), c)

beforeAll(async () => {
  await registerKernels('wasm')
  await setBackend('wasm')
})

/** Feeds n tokens; `value` in place of every number of keys and values. */
async function feed(cache: KVCache, n: number, phase: Phase, value?: number): Promise<void> {
  const from = cache.tokensSeen
  cache.begin(new Int32Array(n).fill(1), phase)
  for (let layer = 0; layer < cache.model.layers; layer++) {
    const waves = (heads: number) =>
      tensor3d(
        Float32Array.from({ length: heads * n * 32 }, (_, i) => Math.sin(i + from * 17 + layer)),
        [heads, n, 32],
      )
    const queries = waves(4)
    const keys = value === undefined ? waves(2) : fill([2, n, 32], value)
    try {
      dispose(await cache.attend(layer, { queries, keys, values: keys }))
    } finally {
      dispose([queries, keys])
    }
  }
  await cache.commit()
}

const positionsOf = async (cache: KVCache, layer = 0): Promise<number[]> => {
  const { keys, values, positions } = await cache.materialize(layer)
  dispose([keys, values])
  return [...(positions[0] ?? [])].filter((p) => p >= 0)
}

describe('stages of some layers', () => {
  it('that drop tokens are refused under a predictor, which reads the layer before', () => {
    const predicted = () => compose(zoned(linearPredictor()), zoned(blockFormats()))
    for (const partial of [
      onLayers([1], streamingLlm({ sinks: 0, recent: 12, positions: 'original' })),
      exceptLayers([0], streamingLlm({ keep: 0.5 })),
      onLayers([0], snapkv()),
    ])
      expect(() => compose(zoned(partial), predicted())).toThrow(IncompatibleStages)
  })

  it('are refused where they cover half a pair of layers', () => {
    const pair = () => minicache({ start: 0, block: 4 })
    for (const half of [
      compose(zoned(pair()), zoned(onLayers([0], higgs({ group: 16 })))),
      compose(zoned(pair()), zoned(onLayers([1, 2, 3], blockFormats()))),
      onLayers([2], pair()),
      protectLayers([2], 4, pair()),
      protectLayers([3], 4, pair()),
    ])
      expect(() => openCache(model, ready(half))).toThrow(IncompatibleStages)
    const whole = openCache(model, ready(onLayers([2, 3], pair())))
    whole.dispose()
  })

  it('that do not exist are refused by number', () => {
    expect(() => openCache(model, ready(onLayers([99], kivi())))).toThrow(ModelMismatch)
    expect(() => openCache(model, ready(onLayers([3, 4], kivi())))).toThrow(/layer 4/)
    expect(() => protectLayers([5], 2, kivi())).toThrow(OptionError)
  })
})

describe('slot positions', () => {
  it('need the first rows of the pick to stay exact', () => {
    const streams = () => compose(streamingLlm({ sinks: 4, recent: 20 }), blockFormats())
    expect(() => zoned(streams())).toThrow(WindowError)
    expect(() => zoned(streams(), 4)).not.toThrow()
    expect(() => zoned(streamingLlm({ sinks: 4, recent: 20 }))).not.toThrow()
    expect(() =>
      zoned(compose(streamingLlm({ sinks: 4, recent: 20, positions: 'original' }), blockFormats())),
    ).not.toThrow()
  })

  it('of a filtered cache reach beyond the first tables of rotation', async () => {
    const cache = openCache(model, ready(freqkv({ window: 512, keep: 0.5 })))
    await feed(cache, 512, 'prompt')
    await feed(cache, 1, 'decode')
    cache.dispose()
  })
})

describe('large numbers', () => {
  it.each([
    ['minicache', minicache({ start: 0, block: 4 }), 32_000],
    ['minicache in f32', window({ store: 'f32' }, minicache({ start: 0, block: 4 })), 32_000],
    ['freqkv', freqkv({ window: 24 }), 46_300],
  ])('that %s would make infinite are refused', async (_, compressor, value) => {
    const before = memory().numBytes
    const cache = openCache(model, ready(compressor))
    await expect(feed(cache, 8, 'promptEnd', value)).rejects.toThrow(NonFiniteError)
    cache.dispose()
    expect(memory().numBytes).toBe(before)
  })
})

describe('rollback', () => {
  it('goes back into the sinks', async () => {
    const [cache, plain] = [
      openCache(model, ready(higgs({ group: 16 }))),
      openCache(model, ready(higgs({ group: 16 }))),
    ]
    await feed(cache, 6, 'promptEnd')
    cache.rollback(3)
    await feed(plain, 3, 'promptEnd')
    for (const each of [cache, plain]) await feed(each, 9, 'decode')
    expect(cache.tokensSeen).toBe(12)
    expect(await positionsOf(cache)).toEqual(await positionsOf(plain))
    expect(cache.bytes().total).toBe(plain.bytes().total)
    for (const each of [cache, plain]) each.dispose()
  })

  it('does not go back behind room that was made; a refused step makes none', async () => {
    const cache = openCache(model, ready(streamingLlm({ sinks: 2, recent: 8 })))
    await feed(cache, 8, 'prompt')
    await feed(cache, 2, 'decode')
    await expect(feed(cache, 1, 'decode', Number.NaN)).rejects.toThrow(NonFiniteError)
    cache.rollback(1)
    for (const n of [1, 1]) await feed(cache, n, 'decode')
    expect(() => cache.rollback(4)).toThrow(CacheStateError)
    await feed(cache, 1, 'decode')
    cache.dispose()
  })
})
