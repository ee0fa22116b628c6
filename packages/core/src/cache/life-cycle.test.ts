/** What a cache does when it is used out of turn: going back, two calls at once, bad numbers. */

import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, it } from 'vitest'
import { ready } from '../artifacts'
import { compose } from '../compose'
import type { KVCompressor } from '../contract'
import { defineScorer } from '../define'
import { CacheStateError, ContextOverflow, UnsupportedStage } from '../errors'
import {
  blocks,
  bytesOf,
  dense,
  feed,
  inputs,
  lastAttention,
  model,
  norms,
  recentOnly,
  rows,
} from '../testing/cache-toys'
import { restoreCache } from './file/restore'
import { openCache } from './open'

beforeAll(async () => {
  await tf.setBackend('wasm')
  await tf.ready()
  await registerKernels('wasm')
})

describe('rollback', () => {
  it.each([
    ['dense', dense],
    ['blocks, within a window', blocks({ block: 64 })],
  ] as const)('%s: is as if the tokens had never come', async (_, compressor) => {
    const before = tf.memory().numBytes
    const [cache, plain] = [openCache(model, compressor), openCache(model, compressor)]
    for (const c of [cache, plain]) await feed(c, [20, 3], () => 'prompt', 1)
    for (let round = 0; round < 5; round++) {
      await feed(cache, [7], () => 'decode', 40 + round)
      cache.rollback(7)
    }
    expect(cache.tokensSeen).toBe(23)
    expect(await feed(cache, [2, 1], () => 'decode', 9)).toEqual(await feed(plain, [2, 1], () => 'decode', 9))
    expect(cache.bytes().total).toBe(plain.bytes().total)
    const [a, b] = [await cache.materialize(1), await plain.materialize(1)]
    expect(await a.keys.data()).toEqual(await b.keys.data())
    expect(a.positions).toEqual(b.positions)
    tf.dispose([a.keys, a.values, b.keys, b.values])
    for (const c of [cache, plain]) c.dispose()
    expect(tf.memory().numBytes).toBe(before)
  })

  it('goes back to the last sealing, eviction or fork, and no further', async () => {
    const cache = openCache(model, rows())
    await feed(cache, [26, 1, 1], () => 'decode')
    cache.rollback(2)
    expect(() => cache.rollback(1)).toThrow(/0 of 26 can be.*fork\(\)/)
    for (const bad of [-1, 0.5, Number.NaN]) expect(() => cache.rollback(bad)).toThrow(CacheStateError)
    const evicting = openCache(model, lastAttention({ cache: 100 }))
    await feed(evicting, [5], () => 'decode')
    expect(() => evicting.rollback(1)).toThrow(/fork\(\)/)
    const once = openCache(model, compose(norms({ keep: 0.5 }), blocks()))
    await feed(once, [20], () => 'promptEnd')
    expect(() => once.rollback(1)).toThrow(/fork\(\)/)
    await feed(once, [3], () => 'decode')
    once.rollback(3)
    const restored = restoreCache(model, ready(rows()), await bytesOf(cache))
    expect(() => restored.rollback(1)).toThrow(/0 of 26/)
    for (const c of [cache, evicting, once, restored]) c.dispose()
  })

  it('works on a fork and on a restored cache', async () => {
    const cache = openCache(model, dense)
    await feed(cache, [70], () => 'decode')
    const twin = cache.fork()
    twin.rollback(10)
    const restored = restoreCache(model, ready(dense), await bytesOf(twin))
    expect(await feed(restored, [3], () => 'decode', 4)).toEqual(await feed(twin, [3], () => 'decode', 4))
    expect(cache.tokensSeen).toBe(70)
    for (const c of [cache, twin, restored]) c.dispose()
  })
})

describe('how many tokens fit', () => {
  const short = { ...model, contextLength: 50 }
  it('is one rule: canTake, contextLeft and begin agree', async () => {
    const plain = openCache(short, dense)
    await feed(plain, [30])
    expect([plain.contextLeft, plain.canTake(7), plain.canTake(100)]).toEqual([20, 7, 20])
    expect(() => plain.begin(new Int32Array(21), 'decode')).toThrow(ContextOverflow)
    await feed(plain, [20])
    expect([plain.contextLeft, plain.canTake(1)]).toEqual([0, 0])
    const stream = openCache(short, recentOnly({ recent: 28 }))
    for (let i = 0; i < 9; i++) await feed(stream, [stream.canTake(1000)], () => 'decode', i)
    expect([stream.contextLeft, stream.canTake(1000), stream.tokensSeen]).toEqual([Number.POSITIVE_INFINITY, 28, 252])
    const tight = openCache({ ...model, contextLength: 28 + 4 }, recentOnly({ recent: 28 }))
    expect(tight.contextLeft).toBe(Number.POSITIVE_INFINITY)
    tight.dispose()
    // Sinks and window together are larger than the context: what still fits is taken.
    const wide = openCache({ ...model, contextLength: 20 }, recentOnly({ recent: 28 }))
    expect([wide.contextLeft, wide.canTake(1000)]).toEqual([20, 20])
    expect(() => wide.begin(new Int32Array(21), 'prompt')).toThrow(/let recent keep fewer rows than the context has/)
    await feed(wide, [20])
    expect([wide.contextLeft, wide.canTake(1000)]).toEqual([0, 0])
    expect(() => plain.begin(new Int32Array(1), 'decode')).toThrow(/use a method that re-assigns positions/)
    for (const c of [plain, stream, wide]) c.dispose()
  })

  it('begin takes ids and a known phase', () => {
    const cache = openCache(model, dense)
    expect(() => cache.begin([1, 2] as unknown as Int32Array, 'decode')).toThrow(/Int32Array/)
    expect(() => cache.begin(new Int32Array(1), 'end' as 'decode')).toThrow(/prompt, promptEnd, decode/)
    cache.dispose()
  })
})

describe('calls out of turn', () => {
  it('two at once: the second is refused, the row is there once', async () => {
    const cache = openCache(model, dense)
    cache.begin(new Int32Array(1), 'decode')
    const now = inputs(1, 1, 0)
    const first = cache.attend(0, now)
    await expect(cache.attend(0, now)).rejects.toThrow(/in the middle of attend\(0\)/)
    for (const call of [() => cache.fork(), () => cache.serialize(), () => cache.begin(new Int32Array(1), 'decode')])
      expect(call).toThrow(CacheStateError)
    tf.dispose([await first, ...Object.values(now)])
    expect(cache.census(0).keys.exact).toBe(1)
    cache.dispose()
  })

  it.each([0, 1])('dispose during a step, after %d layers and while one attends, gives all back', async (done) => {
    const before = tf.memory().numTensors
    const cache = openCache(model, compose(lastAttention(), rows()))
    await feed(cache, [20])
    cache.begin(new Int32Array(1), 'decode')
    const given = [0, 1].map((layer) => inputs(1, 9, layer))
    for (let layer = 0; layer < done; layer++) (await cache.attend(layer, given[layer] as (typeof given)[0])).dispose()
    const running = cache.attend(done, given[done] as (typeof given)[0])
    cache.dispose()
    await expect(running).rejects.toThrow(/disposed/)
    await expect(cache.materialize(0)).rejects.toThrow(/disposed/)
    tf.dispose(given.flatMap((each) => Object.values(each)))
    expect(tf.memory().numTensors).toBe(before)
  })

  it('a snapshot is of the moment it was asked for, whatever comes before it is read', async () => {
    const before = tf.memory().numBytes
    const cache = openCache(model, blocks())
    await feed(cache, [50])
    const then = cache.serialize()
    const now = await bytesOf(cache)
    await feed(cache, new Array<number>(40).fill(1), () => 'decode', 7)
    const parts: Uint8Array[] = []
    for await (const bytes of then) parts.push(bytes)
    expect(Buffer.concat(parts)).toEqual(now)
    // Left after the first piece, it holds nothing.
    for await (const _ of cache.serialize()) break
    cache.dispose()
    expect(tf.memory().numBytes).toBe(before)
  })
})

describe('stages that are wrong', () => {
  const scorer = (score: () => tf.Tensor, needs: object = { keys: { of: 'keys' } }): KVCompressor =>
    defineScorer({ name: 'wrong', needs: needs as { keys: { of: 'keys' } }, score: () => score() })()
  it('scores of another shape and observations that do not exist are named', async () => {
    for (const [score, found] of [
      [() => tf.zeros([3, 4]), '[3, 4]'],
      [() => undefined as unknown as tf.Tensor, 'undefined'],
    ] as const) {
      const cache = openCache(model, scorer(score))
      await expect(feed(cache, [20], () => 'promptEnd')).rejects.toThrow(`wrong`)
      await expect(feed(cache, [20], () => 'promptEnd')).rejects.toThrow(found)
      cache.dispose()
    }
    expect(() =>
      openCache(
        model,
        scorer(() => tf.zeros([1]), { keys: { off: 'keys' } }),
      ),
    ).toThrow(UnsupportedStage)
    expect(() =>
      openCache(
        model,
        scorer(() => tf.zeros([1]), { keys: { of: 'key' } }),
      ),
    ).toThrow(/'attention' \| 'queries'/)
  })

  it('openCache takes a compressor as it is, and says what a fitted one lacks', () => {
    openCache(model, blocks()).dispose()
    const fitted = {
      ...dense,
      stages: blocks().stages.map((s) => ({
        ...s,
        fit: { scope: 'layer', run: async () => ({ json: null, tensors: {} }) },
      })),
    } as unknown as KVCompressor
    expect(() => openCache(model, fitted)).toThrow(/needs calibration/)
  })
})
