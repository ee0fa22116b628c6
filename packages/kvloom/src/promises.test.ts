/** What methods promise to keep stays whatever `keep` says, every head keeps a row, and a cache takes further prompts. */
import { syntheticModel } from '@kvloom/conformance'
import { compose, type KVCache, type KVCompressor, OptionError, openCache, ready } from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import { dispose, randomUniform, setBackend } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { adaKv, expectedAttention, fastgen, kivi, l2Norm, snapkv, streamingLlm, tova } from './index'

const model = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 32, valueDim: 32 })

async function feed(cache: KVCache, count: number, phase: 'promptEnd' | 'decode' = 'promptEnd'): Promise<void> {
  const from = cache.tokensSeen
  cache.begin(new Int32Array(count), phase)
  for (let layer = 0; layer < model.layers; layer++) {
    const rows = (heads: number, seed: number) =>
      randomUniform([heads, count, 32], -1, 1, 'float32', from * 31 + layer * 7 + seed)
    const now = { queries: rows(4, 1), keys: rows(2, 2), values: rows(2, 3) }
    dispose([await cache.attend(layer, now), now.queries, now.keys, now.values])
  }
  await cache.commit()
}

/** Positions of the live rows, per layer and KV head. */
async function held(cache: KVCache): Promise<number[][]> {
  const heads: number[][] = []
  for (let layer = 0; layer < model.layers; layer++)
    for (const lane of cache.segments(layer).keys()) {
      const { keys, values, positions } = await cache.materialize(layer, lane)
      dispose([keys, values])
      heads.push(...positions.map((own) => [...own].filter((p) => p >= 0)))
    }
  return heads
}

async function after(make: () => KVCompressor, prompts: readonly number[]): Promise<number[][]> {
  const cache = openCache(model, ready(make()))
  for (const count of prompts) await feed(cache, count)
  const positions = await held(cache)
  cache.dispose()
  return positions
}

const range = (from: number, end: number) => Array.from({ length: end - from }, (_, i) => from + i)

describe('promises', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it.each([65, 100, 127])(
    'snapkv keeps its window of 64 of a prompt of %i tokens, and nothing else at keep 0.5',
    async (n) => {
      for (const own of await after(() => snapkv(), [n])) expect(own).toEqual(range(n - 64, n))
    },
  )

  it('snapkv keeps its window and the best of the rest where keep has room for both', async () => {
    for (const own of await after(() => snapkv({ keep: 0.5, window: 8 }), [40])) {
      expect(own.length).toBe(20)
      expect(own.slice(-8)).toEqual(range(32, 40))
    }
  })

  it('under ada-kv every head keeps the window, and every row of a prompt that is hardly longer', async () => {
    for (const own of await after(() => compose(snapkv(), adaKv()), [65])) expect(own).toEqual(range(1, 65))
    for (const own of await after(() => compose(snapkv({ keep: 0.3, window: 8 }), adaKv({ safeguard: 0 })), [64]))
      expect(own.slice(-8)).toEqual(range(56, 64))
  })

  it('expected-attention keeps its sinks, under ada-kv in every head', async () => {
    for (const make of [
      () => expectedAttention({ keep: 0.1, sinks: 6, future: 8 }),
      () => compose(expectedAttention({ keep: 0.1, sinks: 6, future: 8 }), adaKv({ safeguard: 0 })),
    ])
      for (const n of [5, 7, 30])
        for (const own of await after(make, [n])) expect(own).toEqual(range(0, Math.min(n, 6)))
  })

  it('streaming-llm keeps its sinks and the newest, once as at any time', async () => {
    for (const own of await after(() => streamingLlm({ keep: 0.1 }), [20])) expect(own).toEqual([0, 1, 2, 3, 19])
    const cache = openCache(model, ready(streamingLlm({ sinks: 2, recent: 5, positions: 'original' })))
    for (const count of [5, 3, 1, 1]) await feed(cache, count)
    for (const own of await held(cache)) expect(own).toEqual([0, 1, 5, 6, 7, 8, 9])
    cache.dispose()
  })

  it('fastgen keeps its first tokens', async () => {
    for (const own of await after(() => fastgen({ minRecovery: 0.05, globalTokens: 3, window: 0.1 }), [30, 10]))
      expect(own.slice(0, 3)).toEqual([0, 1, 2])
  })

  it.each<[string, () => KVCompressor]>([
    ['tova', () => tova({ keep: 0.1 })],
    ['l2-norm, trunc', () => l2Norm({ keep: 0.1, rounding: 'trunc', skipLayers: [] })],
    ['snapkv', () => snapkv({ keep: 0.01, window: 1 })],
    ['expected-attention without sinks', () => expectedAttention({ keep: 0.01, sinks: 0, future: 8 })],
    ['streaming-llm, once, without sinks', () => streamingLlm({ keep: 0.01, sinks: 0 })],
    ['l2-norm + ada-kv', () => compose(l2Norm({ keep: 0.1, skipLayers: [] }), adaKv({ safeguard: 0 }))],
    ['snapkv + kivi', () => compose(snapkv({ keep: 0.01, window: 1 }), kivi({ group: 16, residual: 16 }))],
    ['fastgen', () => fastgen({ minRecovery: 1e-6, globalTokens: 0, heavy: 1e-6, window: 1e-6 })],
  ])('%s keeps at least one row of every head', async (_, make) => {
    for (const n of [1, 2, 5, 40])
      for (const own of await after(make, [n])) expect(own.length).toBeGreaterThanOrEqual(1)
  })

  it('tova keeps the newest token of any prompt', async () => {
    for (const n of [1, 5, 30])
      for (const own of await after(() => tova({ keep: 0.1 }), [n])) expect(own.at(-1)).toBe(n - 1)
  })

  it.each<[string, () => KVCompressor]>([
    ['snapkv + ada-kv', () => compose(snapkv({ keep: 0.3, window: 8 }), adaKv())],
    ['expected-attention', () => expectedAttention()],
    ['expected-attention + ada-kv', () => compose(expectedAttention({ keep: 0.3 }), adaKv())],
    ['tova', () => tova()],
    ['l2-norm + ada-kv', () => compose(l2Norm({ keep: 0.3, skipLayers: [], pruneAfter: 12 }), adaKv())],
    ['fastgen', () => fastgen({ minRecovery: 0.5 })],
    ['snapkv + kivi', () => compose(snapkv({ keep: 0.3, window: 8 }), kivi({ group: 16, residual: 16 }))],
    [
      'snapkv + ada-kv + kivi',
      () => compose(snapkv({ keep: 0.3, window: 8 }), adaKv(), kivi({ group: 16, residual: 16 })),
    ],
  ])('%s takes further prompts of 1, 3 and many tokens', async (_, make) => {
    const cache = openCache(model, ready(make()))
    for (const count of [64, 1, 3, 50, 1]) {
      await feed(cache, count)
      await feed(cache, 1, 'decode')
      for (const own of await held(cache)) expect(own.at(-1)).toBe(cache.tokensSeen - 1)
    }
    cache.dispose()
  })
})

it('kivi refuses a group of one number', () => {
  expect(() => kivi({ group: 1, residual: 16 })).toThrow(OptionError)
})
