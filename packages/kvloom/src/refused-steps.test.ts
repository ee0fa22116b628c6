/** A step that is refused changes nothing, also where a stage would have made room for it. */
import { syntheticModel } from '@kvloom/conformance'
import {
  CacheStateError,
  compose,
  type KVCache,
  type KVCompressor,
  ModelMismatch,
  NonFiniteError,
  openCache,
  type Phase,
  ready,
} from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import { dispose, memory, setBackend, type Tensor3D, tensor3d } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { freqkv, kivi, streamingLlm } from './index'

const model = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 32, valueDim: 32 })
const SMALL = { sinks: 2, recent: 8 }

/** Each holds 10 rows at most, and the next token makes room. */
const full: Readonly<Record<string, () => KVCompressor>> = {
  'streaming-llm': () => streamingLlm(SMALL),
  'streaming-llm with original positions': () => streamingLlm({ ...SMALL, positions: 'original' }),
  'streaming-llm + kivi': () => compose(streamingLlm(SMALL), kivi({ residual: 4, group: 4 })),
  freqkv: () => freqkv({ window: 10, sinks: 2 }),
}

beforeAll(async () => {
  await registerKernels('wasm')
  await setBackend('wasm')
})

/** What a layer is handed of `n` tokens: waves, or NaN in the last number of its values. */
function rows(n: number, from: number, layer: number, last?: number) {
  const waves = (heads: number): Tensor3D => {
    const numbers = Float32Array.from({ length: heads * n * 32 }, (_, i) => Math.sin(i + from * 17 + layer))
    if (last !== undefined && heads === 2) numbers[numbers.length - 1] = last
    return tensor3d(numbers, [heads, n, 32])
  }
  const values = waves(2)
  return { queries: waves(4), keys: values, values }
}

async function attend(cache: KVCache, layer: number, given: ReturnType<typeof rows>): Promise<void> {
  try {
    dispose(await cache.attend(layer, given))
  } finally {
    dispose([given.queries, given.values])
  }
}

async function feed(cache: KVCache, n: number, phase: Phase): Promise<void> {
  const from = cache.tokensSeen
  cache.begin(new Int32Array(n).fill(1), phase)
  for (let layer = 0; layer < model.layers; layer++) await attend(cache, layer, rows(n, from, layer))
  await cache.commit()
}

/** A cache of 10 tokens, all of which it holds. */
async function filled(make: () => KVCompressor): Promise<KVCache> {
  const cache = openCache(model, ready(make()))
  await feed(cache, 8, 'promptEnd')
  await feed(cache, 2, 'decode')
  return cache
}

/** The original positions of the rows of layer 0 that are not dropped. */
async function positionsOf(cache: KVCache): Promise<number[]> {
  const { keys, values, positions } = await cache.materialize(0)
  dispose([keys, values])
  return [...(positions[0] ?? [])].filter((position) => position >= 0)
}

/** Everything that a cache holds, as it is saved, and what it says of itself. */
async function stateOf(cache: KVCache) {
  const saved: Uint8Array[] = []
  for await (const bytes of cache.serialize()) saved.push(bytes)
  return {
    saved: Buffer.concat(saved).toString('base64'),
    seen: cache.tokensSeen,
    left: cache.contextLeft,
    takes: cache.canTake(100),
    census: Array.from({ length: model.layers }, (_, layer) => cache.census(layer)),
    bytes: cache.bytes().total,
    tensors: memory().numTensors,
  }
}

describe.each(Object.entries(full))('a refused step of %s, which would have made room', (_, make) => {
  const refusals: Readonly<Record<string, (cache: KVCache) => Promise<unknown>>> = {
    NaN: async (cache) => {
      cache.begin(Int32Array.of(1), 'decode')
      await expect(attend(cache, 0, rows(1, cache.tokensSeen, 0, Number.NaN))).rejects.toThrow(NonFiniteError)
    },
    'too many tokens': async (cache) => {
      expect(() => cache.begin(new Int32Array(9), 'decode')).toThrow(CacheStateError)
    },
    'an id that is no Int32Array': async (cache) => {
      expect(() => cache.begin([1] as never, 'decode')).toThrow(CacheStateError)
    },
  }

  it.each(Object.entries(refusals))('for %s changes nothing', async (_, refuse) => {
    const before = memory().numTensors
    const cache = await filled(make)
    const state = await stateOf(cache)
    await refuse(cache)
    expect(await stateOf(cache)).toEqual(state)
    cache.dispose()
    expect(memory().numTensors).toBe(before)
  })

  it('goes on as a cache that never saw it', async () => {
    const [cache, twin] = [await filled(make), await filled(make)]
    for (const refuse of Object.values(refusals)) await refuse(cache)
    for (const each of [cache, twin]) for (let i = 0; i < 5; i++) await feed(each, 1, 'decode')
    expect((await stateOf(cache)).saved).toBe((await stateOf(twin)).saved)
    for (const each of [cache, twin]) each.dispose()
  })

  it('in another order makes room once, when its first layer attends', async () => {
    const [cache, twin] = [await filled(make), await filled(make)]
    const held = cache.census(0)
    const now = () => rows(1, twin.tokensSeen, 0)
    cache.begin(Int32Array.of(1), 'decode')
    expect(() => cache.begin(Int32Array.of(1), 'decode')).toThrow(CacheStateError)
    await expect(cache.commit()).rejects.toThrow(CacheStateError)
    await expect(attend(cache, 0, rows(2, 0, 0))).rejects.toThrow(ModelMismatch)
    expect(cache.census(0)).toEqual(held)
    // What the step will read is seen before, and nothing has gone yet.
    const tensors = memory().numTensors
    const before = await positionsOf(cache)
    expect(before.length).toBeLessThan(10)
    expect(memory().numTensors).toBe(tensors)
    expect(cache.census(0)).toEqual(held)
    await attend(cache, 0, now())
    expect((await positionsOf(cache)).slice(0, before.length)).toEqual(before)
    await expect(attend(cache, 0, now())).rejects.toThrow(CacheStateError)
    await attend(cache, 1, rows(1, twin.tokensSeen, 1))
    await cache.commit()
    await feed(twin, 1, 'decode')
    expect((await stateOf(cache)).saved).toBe((await stateOf(twin)).saved)
    expect(() => cache.rollback(1)).toThrow(CacheStateError)
    for (const each of [cache, twin]) each.dispose()
  })
})
