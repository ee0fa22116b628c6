import { SHAPES, syntheticModel, testCompressor, testSettings } from '@kvloom/conformance'
import {
  CacheStateError,
  IncompatibleStages,
  type KVCache,
  OptionError,
  openCache,
  type ReplayContext,
  ready,
  sharedTokens,
  siteOf,
  stagesOn,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { dispose, memory, randomNormal, setBackend, type Tensor, tensor2d } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { kvzip } from './kvzip'
import { passesOver } from './passes'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
const keepsAll = () => window({ store: 'f32' }, kvzip({ keep: 1 }))
testCompressor(runner, { name: 'kvzip', make: () => kvzip({ keep: 0.4 }), identity: keepsAll, backends: ['wasm'] })
testCompressor(runner, {
  name: 'kvzip',
  make: () => kvzip({ keep: 0.4 }),
  backends: ['cpu'],
  shapes: SHAPES.slice(0, 1),
  decode: 30,
})
testCompressor(runner, {
  name: 'kvzip, the heads of a layer, in chunks',
  make: () => kvzip({ keep: 0.4, over: 'layer', chunk: 24, prefix: 9 }),
  backends: ['wasm'],
  shapes: SHAPES.slice(0, 2),
})
testCompressor(runner, {
  name: 'kvzip, equal heads, almost nothing',
  make: () => kvzip({ keep: 0.01, over: 'head', sinks: 0 }),
  backends: ['wasm'],
  shapes: SHAPES.slice(0, 2),
})
testCompressor(runner, {
  name: 'kvzip, every 25 tokens',
  make: () => kvzip({ keep: 0.4, every: 25 }),
  backends: ['wasm'],
  shapes: SHAPES.slice(0, 2),
})
testSettings(runner, { name: 'kvzip', methods: [kvzip], seed: 5 })

const texts = {
  encode: (text: string) => Int32Array.from(text, (character) => 1000 + character.charCodeAt(0)),
  beforeAnswer: () => '',
}
const contextOf = (tokens: number, more: Partial<ReplayContext> = {}): ReplayContext => ({
  ...texts,
  tokens: Int32Array.from({ length: tokens }, (_, i) => i),
  room: Number.POSITIVE_INFINITY,
  ...more,
})
const ALL = [...texts.encode('\n\nRepeat the previous context exactly.')]
const FROM = [...texts.encode('\n\nRepeat the part of the previous context exactly, starting with ')]
const NEW_LINE = [...texts.encode('\n')]
const count = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)

describe('passes of kvzip', () => {
  const options = { chunk: 2048, sinks: 4, prefix: 0 }

  it('repeat a short context at once', () => {
    const [pass, ...more] = passesOver(contextOf(5), options)
    expect(more).toEqual([])
    expect(pass).toMatchObject({ from: 0, to: 5, sinks: 4 })
    expect([...(pass?.tokens ?? [])]).toEqual([...ALL, ...NEW_LINE, 0, 1, 2, 3, 4])
  })

  it('repeat chunks behind the last eight tokens before them, and the rest in a shorter one', () => {
    const passes = passesOver(contextOf(25), { ...options, chunk: 10, prefix: 3 })
    expect(passes.map(({ from, to }) => [from, to])).toEqual([
      [3, 13],
      [13, 23],
      [23, 25],
    ])
    expect(passes.map(({ tokens }) => [...tokens])).toEqual([
      [...ALL, ...NEW_LINE, ...count(3, 13)],
      [...FROM, ...count(5, 13), ...NEW_LINE, ...count(13, 23)],
      [...FROM, ...count(15, 23), ...NEW_LINE, ...count(23, 25)],
    ])
  })

  it('remind of no more than the chunk before has, and of nothing before the prefix', () => {
    const [, second] = passesOver(contextOf(8), { ...options, chunk: 2, prefix: 4 })
    expect([...(second?.tokens ?? [])]).toEqual([...FROM, 4, 5, ...NEW_LINE, 6, 7])
  })

  it('end the turn as the chat template of the model does', () => {
    const [pass] = passesOver(contextOf(2, { beforeAnswer: () => '<|im_end|>' }), options)
    expect([...(pass?.tokens ?? [])]).toEqual([...ALL, ...texts.encode('<|im_end|>'), 0, 1])
  })

  it('are as long as the context of the model allows, and no pass where nothing is left to repeat', () => {
    const room = FROM.length + 8 + NEW_LINE.length + 100
    const passes = passesOver(contextOf(250, { room }), options)
    expect(passes.map(({ from, to }) => to - from)).toEqual([100, 100, 50])
    for (const { tokens } of passes) expect(tokens.length).toBeLessThanOrEqual(room)
    // Without room for a chunk worth the name the pass is too long, and the engine refuses it.
    expect(passesOver(contextOf(250, { room: 20 }), options)[0]?.tokens.length).toBeGreaterThan(20)
    expect(passesOver(contextOf(7), { ...options, prefix: 7 })).toEqual([])
  })
})

const model = { ...syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 8, valueDim: 8 }), layers: 3 }

/** Feeds random rows to every layer. */
async function feed(cache: KVCache, n: number, phase: 'prompt' | 'promptEnd' | 'decode'): Promise<void> {
  cache.begin(new Int32Array(n).fill(1), phase)
  for (let layer = 0; layer < model.layers; layer++) {
    const seed = 100 * layer + cache.tokensSeen + 1
    const rows = (heads: number, of: number): Tensor => randomNormal([heads, n, 8], 0, 1, 'float32', seed + of)
    const given = { queries: rows(4, 0), keys: rows(2, 7), values: rows(2, 13) }
    dispose([...Object.values(given), await cache.attend(layer, given)])
  }
  await cache.commit()
}

async function replay(cache: KVCache): Promise<void> {
  for (const pass of cache.replay?.passes(texts) ?? []) {
    const copy = cache.replay?.open(pass)
    if (!copy) throw new Error('nothing waits')
    await feed(copy, pass.tokens.length, 'prompt')
    copy.dispose()
  }
  await cache.replay?.finish()
}

const rowsOf = (cache: KVCache): number[][] =>
  Array.from({ length: model.layers }, (_, layer) =>
    cache.segments(layer).flatMap(({ heads, keys }) => heads.map(() => keys.reduce((sum, { rows }) => sum + rows, 0))),
  )
const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0)

describe('kvzip', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('scores by the largest share over the query heads of a group', async () => {
    const [stage] = stagesOn(kvzip(), 'score', 0)
    const shares = tensor2d([
      [0.1, 0.5, 0],
      [0.3, 0.2, 0],
      [0, 0, 0.9],
      [0.4, 0, 0.1],
    ])
    const scores = stage?.bind(siteOf(model, 0, 'keys')).score({ shares }, {}, { phase: 'promptEnd', tokensSeen: 3 })
    if (!scores || 'scores' in scores) throw new Error('no columns are declared')
    expect(scores.shape).toEqual([2, 3])
    const rounded = [...(await scores.data())].map((x) => Math.round(x * 10) / 10)
    expect(rounded).toEqual([0.3, 0.5, 0, 0.4, 0, 0.9])
    dispose([shares, scores])
  })

  it('keeps the fraction of all pairs over the model, of a layer, or of a head; heads differ where they may', async () => {
    const before = memory().numBytes
    const kept = async (over: 'model' | 'layer' | 'head') => {
      const cache = openCache(model, ready(kvzip({ keep: 0.3, over })))
      await feed(cache, 41, 'promptEnd')
      await replay(cache)
      const rows = rowsOf(cache)
      await feed(cache, 1, 'decode')
      cache.dispose()
      return rows
    }
    const [ofModel, ofLayer, ofHead] = [await kept('model'), await kept('layer'), await kept('head')]
    expect(sum(ofModel.flat())).toBe(Math.trunc(3 * 2 * 41 * 0.3))
    expect(new Set(ofModel.map(sum)).size).toBeGreaterThan(1)
    expect(ofLayer.map(sum)).toEqual([24, 24, 24])
    expect(new Set(ofLayer.flat()).size).toBeGreaterThan(1)
    expect(new Set(ofHead.flat())).toEqual(new Set([12]))
    expect(memory().numBytes).toBe(before)
  })

  it('keeps sinks and prefix of every head, whatever is left for the others', async () => {
    const cache = openCache(model, ready(kvzip({ keep: 0.05, prefix: 6 })))
    await feed(cache, 40, 'promptEnd')
    await replay(cache)
    for (const own of rowsOf(cache).flat()) expect(own).toBe(6)
    cache.dispose()
  })

  it('drops first what of the prefix are no sinks, if asked', async () => {
    const cache = openCache(model, ready(kvzip({ keep: 0.4, prefix: 12, keepPrefix: false, sinks: 2 })))
    await feed(cache, 40, 'promptEnd')
    expect(cache.replay?.passes(texts)).toMatchObject([{ from: 12, to: 40 }])
    await replay(cache)
    expect(sum(rowsOf(cache).flat())).toBe(Math.trunc(3 * 2 * 40 * 0.4))
    for (let layer = 0; layer < model.layers; layer++) {
      const held = await cache.materialize(layer)
      for (const own of held.positions) {
        const kept = [...own].filter((position) => position >= 0)
        expect(kept.slice(0, 2)).toEqual([0, 1])
        expect(kept.filter((position) => position >= 2 && position < 12)).toEqual([])
      }
      dispose([held.keys, held.values])
    }
    cache.dispose()
  })

  it('takes a prompt shorter than its prefix without a pass, and a second prompt that is repeated from the prefix on', async () => {
    const before = memory().numBytes
    const cache = openCache(model, ready(kvzip({ keep: 0.5, prefix: 6 })))
    await feed(cache, 3, 'promptEnd')
    expect(cache.replay?.passes(texts)).toEqual([])
    await replay(cache)
    expect(new Set(rowsOf(cache).flat())).toEqual(new Set([3]))
    await feed(cache, 2, 'decode')
    await feed(cache, 30, 'promptEnd')
    expect(cache.replay?.passes(texts)).toMatchObject([{ from: 6, to: 35 }])
    await replay(cache)
    expect(sum(rowsOf(cache).flat())).toBe(Math.trunc(6 * 35 * 0.5))
    cache.dispose()
    expect(memory().numBytes).toBe(before)
  })

  it('acts every so many tokens, of a prompt in pieces and decoded, on what all tokens so far have room for', async () => {
    const before = memory().numBytes
    const atEnd = openCache(model, ready(kvzip({ keep: 0.4 })))
    await feed(atEnd, 40, 'promptEnd')
    await replay(atEnd)
    const cache = openCache(model, ready(kvzip({ keep: 0.4, every: 40 })))
    await feed(cache, 40, 'prompt')
    expect(() => cache.begin(Int32Array.of(1), 'decode')).toThrow(CacheStateError)
    await replay(cache)
    expect(rowsOf(cache)).toEqual(rowsOf(atEnd))
    for (let layer = 0; layer < model.layers; layer++) {
      const [held, same] = [await cache.materialize(layer), await atEnd.materialize(layer)]
      expect(held.positions).toEqual(same.positions)
      dispose([held.keys, held.values, same.keys, same.values])
    }
    await feed(cache, 39, 'prompt')
    expect(cache.replay).toBe(null)
    await feed(cache, 1, 'decode')
    expect(cache.replay?.passes(texts)).toMatchObject([{ from: 0, to: 80 }])
    await replay(cache)
    expect(sum(rowsOf(cache).flat())).toBe(Math.trunc(3 * 2 * 80 * 0.4))
    await feed(cache, 5, 'promptEnd')
    await replay(cache)
    expect(sum(rowsOf(cache).flat())).toBe(Math.trunc(3 * 2 * 85 * 0.4))
    atEnd.dispose()
    cache.dispose()
    expect(memory().numBytes).toBe(before)
  })

  it('waits until its context was read again', async () => {
    const cache = openCache(model, ready(kvzip()))
    await feed(cache, 10, 'promptEnd')
    expect(() => cache.begin(Int32Array.of(1), 'decode')).toThrow(CacheStateError)
    cache.dispose()
  })

  it('chooses one set of tokens for all where heads keep as many, and only there', () => {
    expect(() => sharedTokens('model', kvzip({ over: 'head' }))).not.toThrow()
    expect(() => sharedTokens('model', kvzip())).toThrow(IncompatibleStages)
  })

  it('refuses options out of range', () => {
    for (const options of [
      { keep: 0 },
      { keep: 1.5 },
      { chunk: 0 },
      { sinks: -1 },
      { prefix: 1.5 },
      { every: 0 },
      { over: 'all' },
    ])
      expect(() => kvzip(options as never)).toThrow(OptionError)
  })
})
