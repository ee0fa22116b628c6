import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-cpu'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, it } from 'vitest'
import { ready } from '../artifacts'
import { compose, window } from '../compose'
import type { KVCompressor } from '../contract'
import {
  CacheStateError,
  ContextOverflow,
  IncompatibleStages,
  NonFiniteError,
  SerializedCacheError,
  WindowError,
} from '../errors'
import {
  blocks,
  bytesOf,
  dense,
  feed,
  heavy,
  inputs,
  lastAttention,
  model,
  norms,
  random,
  recentOnly,
  rows,
} from '../testing/cache-toys'
import { restoreCache } from './file/restore'
import { openCache } from './open'

describe.each(['cpu', 'wasm'] as const)('cache on %s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend)
    await tf.ready()
    await registerKernels(backend)
  })

  it('attends like plain softmax attention over rotated keys', async () => {
    const cache = openCache(model, ready(dense))
    await feed(cache, [5, 1, 7])
    const { keys, values, positions } = await cache.materialize(0)
    expect([...(positions[0] ?? [])]).toEqual(Array.from({ length: 13 }, (_, i) => i))
    const queries = random([4, 1, 32], 77)
    const out = await cache.read(0, queries)
    const rotated = plainRotate((await queries.array()) as number[][][], 12)
    const k = (await keys.array()) as number[][][]
    const v = (await values.array()) as number[][][]
    const got = (await out.array()) as number[][][]
    for (let h = 0; h < 4; h++) {
      const kv = Math.floor(h / 2)
      const q = rotated[h]?.[0] ?? []
      const scores = (k[kv] ?? []).map((row) => dot(row, q) * model.attentionScale)
      const weights = scores.map((s) => Math.exp(s - Math.max(...scores)))
      const total = weights.reduce((a, b) => a + b, 0)
      for (let d = 0; d < 32; d++) {
        const expected = weights.reduce((sum, w, t) => sum + (w / total) * (v[kv]?.[t]?.[d] ?? 0), 0)
        expect(got[h]?.[0]?.[d]).toBeCloseTo(expected, 4)
      }
    }
    tf.dispose([keys, values, queries, out])
    cache.dispose()
  })

  const mixes: [string, KVCompressor][] = [
    ['dense', dense],
    ['blocks', blocks()],
    ['norms', norms()],
    ['norms+blocks', compose(norms(), blocks())],
    ['last', lastAttention()],
    ['last+rows', compose(lastAttention(), rows())],
    ['heavy', heavy()],
    ['heavy+rows', compose(heavy(), rows())],
    ['recent', recentOnly()],
    ['recent+blocks', compose(recentOnly({ recent: 60 }), blocks())],
  ]
  it.each(mixes)('%s: ledger equals tf.memory() at every step, and dispose gives all back', async (_, compressor) => {
    const before = tf.memory().numBytes
    const cache = openCache(model, ready(compressor))
    const chunks = [20, 20, 20, ...new Array<number>(70).fill(1)]
    for (const [i, n] of chunks.entries()) {
      await feed(cache, [n], () => (i < 2 ? 'prompt' : i === 2 ? 'promptEnd' : 'decode'), i)
      expect(cache.bytes().total).toBe(tf.memory().numBytes - before)
    }
    expect(cache.bytes().peak).toBeGreaterThanOrEqual(cache.bytes().total)
    const twin = cache.fork()
    const a = await feed(cache, [3, 1], () => 'decode', 500)
    const b = await feed(twin, [3, 1], () => 'decode', 500)
    expect(b).toEqual(a)
    const restored = restoreCache(model, ready(compressor), await bytesOf(cache))
    expect(await feed(restored, [1, 2], () => 'decode', 900)).toEqual(await feed(cache, [1, 2], () => 'decode', 900))
    for (const c of [cache, twin, restored]) c.dispose()
    expect(tf.memory().numBytes).toBe(before)
  })

  it('keeps storage order and exact sinks when an eviction precedes sealing', async () => {
    const cache = openCache(model, ready(window({ sinks: 4 }, compose(norms(), blocks()))))
    await feed(cache, [20], () => 'promptEnd')
    await feed(cache, new Array<number>(60).fill(1), () => 'decode', 30)
    const [lane] = cache.segments(0)
    expect(lane?.keys.filter((s) => s.zone === 'sink').reduce((n, s) => n + s.rows, 0)).toBe(4)
    expect(lane?.keys.some((s) => s.zone === 'sealed')).toBe(true)
    const { keys, values, positions } = await cache.materialize(0)
    for (const row of positions) expect([...row]).toEqual([...row].sort((a, b) => a - b))
    // The newest rows of the window are the newest tokens, as they were handed in.
    const newest = inputs(1, 30 + 59, 0)
    const held = (await values.array()) as number[][][]
    const given = (await newest.values.array()) as number[][][]
    expect(held[1]?.at(-1)).toEqual(given[1]?.[0])
    tf.dispose([keys, values, newest.queries, newest.keys, newest.values])
    cache.dispose()
  })

  it('holds no more for sinks that never come, and seals behind many', async () => {
    const bytesWith = async (sinks: number) => {
      const cache = openCache(model, window({ sinks }, rows()))
      await feed(cache, [20])
      const { total } = cache.bytes()
      expect(cache.census(0).keys).toMatchObject({ exact: 20, sealed: 0 })
      cache.dispose()
      return total
    }
    expect(await bytesWith(1e9)).toBeLessThanOrEqual(await bytesWith(64))
    const before = tf.memory().numTensors
    const cache = openCache(model, window({ sinks: 130 }, rows()))
    await feed(cache, [100, 100])
    const [lane] = cache.segments(0)
    const inZone = (zone: string) => lane?.keys.filter((s) => s.zone === zone).reduce((n, s) => n + s.rows, 0)
    expect([inZone('sink'), inZone('sealed'), inZone('window')]).toEqual([130, 48, 22])
    cache.dispose()
    expect(tf.memory().numTensors).toBe(before)
  })

  it('refuses a damaged serialised cache', async () => {
    const cache = openCache(model, ready(blocks()))
    await feed(cache, [70])
    const file = await bytesOf(cache)
    const flipped = Buffer.from(file)
    flipped[file.length >> 1] = (flipped[file.length >> 1] ?? 0) ^ 1
    for (const bad of [file.subarray(0, 10), file.subarray(0, file.length - 5), flipped])
      expect(() => restoreCache(model, ready(blocks()), bad)).toThrow(SerializedCacheError)
    expect(() => restoreCache(model, ready(dense), file)).toThrow(/another compressor/)
    cache.dispose()
  })

  it('gives each KV head its own count under a ragged budget', async () => {
    const before = tf.memory().numBytes
    const ragged: KVCompressor = {
      card: { ...dense.card, name: 'ragged' },
      stages: [
        {
          kind: 'budget',
          id: 'ragged',
          options: null,
          when: 'promptEnd',
          facts: { ragged: true },
          accepts: (s) => s,
          bind: () => ({ ragged: true, counts: (scores) => scores.map((_, h) => 5 + h * 3) }),
        },
      ],
    }
    const cache = openCache(model, ready(compose(norms(), ragged, blocks())))
    await feed(cache, [30], () => 'promptEnd')
    expect(cache.segments(0).map((lane) => lane.keys.reduce((n, s) => n + s.rows, 0))).toEqual([5, 8])
    await feed(cache, new Array<number>(60).fill(1), () => 'decode', 40)
    expect(cache.bytes().total).toBe(tf.memory().numBytes - before)
    cache.dispose()
    expect(tf.memory().numBytes).toBe(before)
  })

  it('stops with typed errors and keeps what it has', async () => {
    const cache = openCache(model, ready(dense))
    await feed(cache, [4])
    expect(() => cache.begin(new Int32Array(0), 'decode')).toThrow(CacheStateError)
    expect(() => cache.begin(new Int32Array(5000), 'prompt')).toThrow(ContextOverflow)
    cache.begin(new Int32Array(1), 'decode')
    const now = inputs(1, 3, 0)
    const bad = { ...now, values: tf.fill([2, 1, 32], Number.NaN) as tf.Tensor3D }
    await expect(cache.attend(0, bad)).rejects.toThrow(NonFiniteError)
    const halves = openCache(model, ready({ ...dense, store: 'f16' }))
    halves.begin(new Int32Array(1), 'decode')
    const large = { ...now, keys: tf.fill([2, 1, 32], 7e4) as tf.Tensor3D }
    await expect(halves.attend(0, large)).rejects.toThrow(/65504/)
    halves.dispose()
    large.keys.dispose()
    await feed(cache, [2])
    expect(cache.tokensSeen).toBe(6)
    tf.dispose([now.queries, now.keys, now.values, bad.values])
    cache.dispose()
  })
})

it('refuses what cannot work, when composed or opened', () => {
  expect(() => compose(blocks(), blocks({ bits: 2 }))).toThrow(IncompatibleStages)
  expect(() => compose(norms(), lastAttention())).toThrow(/norms and last cannot be composed/)
  expect(() => openCache(model, ready(compose(norms(), recentOnly())))).toThrow(IncompatibleStages)
  for (const scorer of [lastAttention(), heavy()])
    expect(() => openCache(model, compose(scorer, blocks()))).toThrow(/drops rows one by one .* end of the prompt only/)
  expect(() => openCache(model, ready(window({ keys: { block: 16 } }, blocks())))).toThrow(WindowError)
  expect(() => openCache(model, ready(window({ keys: { block: 48 } }, blocks())))).toThrow(WindowError)
})

const dot = (a: number[], b: number[]) => a.reduce((s, x, i) => s + x * (b[i] ?? 0), 0)
const plainRotate = (q: number[][][], position: number) =>
  q.map((head) =>
    head.map((row) =>
      row.map((x, j) => {
        const angle = position * 10000 ** (-(j % 16) / 16)
        const pair = row[(j + 16) % 32] ?? 0
        return j < 16 ? x * Math.cos(angle) - pair * Math.sin(angle) : x * Math.cos(angle) + pair * Math.sin(angle)
      }),
    ),
  )
