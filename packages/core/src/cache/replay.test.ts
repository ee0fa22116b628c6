/** A scorer that asks the model to read its context again, and one that looks at hidden states: what they see is what a plain computation gives. */
import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, it } from 'vitest'
import { ready } from '../artifacts'
import { compose } from '../compose'
import type { KVCache, Phase, ReplayPass, ReplayTexts } from '../contract'
import { defineScorer } from '../define'
import { CacheStateError, ModelMismatch } from '../errors'
import { fraction } from '../options'
import { blocks, bytesOf, dense, model as rotating } from '../testing/cache-toys'
import { restoreCache } from './file/restore'
import { openCache } from './open'

const model = { ...rotating, rope: null }
const { layers, queryHeads, kvHeads, keyDim, attentionScale } = model
const CONTEXT = 40
const PASSES: readonly ReplayPass[] = [
  { tokens: new Int32Array(6).fill(1), from: 2, to: 20, sinks: 2 },
  { tokens: new Int32Array(5).fill(2), from: 20, to: 36, sinks: 2 },
]

/** What an engine says of a model's texts. */
const TEXTS: ReplayTexts = { encode: () => Int32Array.of(7), beforeAnswer: () => '\n' }

/** Keeps what the replayed tokens attend to most, by the largest share over the heads of a group. */
const replaying = defineScorer({
  name: 'replaying',
  options: { keep: fraction({ default: 0.5, doc: '' }) },
  needs: { seen: { of: 'replay' } },
  replay: ({ tokens, encode, beforeAnswer, room }) => {
    expect(tokens).toHaveLength(CONTEXT)
    expect([...encode('again')]).toEqual([7])
    expect(beforeAnswer()).toBe('\n')
    expect(room).toBe(model.contextLength - CONTEXT)
    return PASSES
  },
  score: ({ seen }) => tf.max(tf.reshape(seen, [kvHeads, queryHeads / kvHeads, -1]), 1),
})

/** Keeps the tokens with the largest hidden states, of the newest 16. */
const byHidden = defineScorer({
  name: 'by-hidden',
  options: { keep: fraction({ default: 0.25, doc: '' }) },
  needs: { states: { of: 'hidden', last: 16 }, keys: { of: 'keys' } },
  score: ({ states, keys }) => {
    const rows = keys.shape[1] ?? 0
    const lengths = tf.sum(tf.square(states), 1)
    return tf.reshape(tf.pad(lengths as tf.Tensor1D, [[rows - (states.shape[0] ?? 0), 0]]), [1, rows])
  },
})

/** A number for every head, row and channel of a layer's tensors, the same for cache and plain computation. */
const number = (seed: number, layer: number, head: number, row: number, channel: number): number =>
  Math.sin(seed * 12.9 + layer * 7.7 + head * 3.3 + row * 1.7 + channel * 0.9) * 2
function rowsOf(seed: number, layer: number, heads: number, from: number, n: number): tf.Tensor {
  const values = Float32Array.from({ length: heads * n * keyDim }, (_, i) => {
    const [head, rest] = [Math.floor(i / (n * keyDim)), i % (n * keyDim)]
    return number(seed, layer, head, from + Math.floor(rest / keyDim), rest % keyDim)
  })
  return tf.tensor3d(values, [heads, n, keyDim])
}

async function feed(cache: KVCache, n: number, phase: Phase, seed = 0, hidden = false): Promise<void> {
  const from = cache.tokensSeen
  cache.begin(new Int32Array(n).fill(1), phase)
  for (let layer = 0; layer < layers; layer++) {
    const queries = rowsOf(seed + 1, layer, queryHeads, from, n)
    const keys = rowsOf(seed + 2, layer, kvHeads, from, n)
    const states = tf.tidy(() => tf.reshape(rowsOf(9, layer, 1, from, n), [n, keyDim]))
    const given = { queries, keys, values: keys, ...(hidden ? { hidden: states } : {}) }
    tf.dispose([queries, keys, states, await cache.attend(layer, given)])
  }
  await cache.commit()
}

/** Runs the passes as an engine does. */
async function replay(cache: KVCache): Promise<void> {
  const { replay: pending } = cache
  if (!pending) throw new Error('nothing to replay')
  for (const [i, pass] of pending.passes(TEXTS).entries()) {
    const copy = pending.open(pass)
    await feed(copy, 2, 'prompt', 10 * (i + 1))
    await feed(copy, pass.tokens.length - 2, 'prompt', 10 * (i + 1))
    copy.dispose()
  }
  await pending.finish()
}

/** The largest share of attention that each token of the context gets from any token of a pass, over a group's query heads. */
function plainScores(layer: number, kvHead: number): number[] {
  const scores = new Array<number>(CONTEXT).fill(0)
  const dot = (seed: number, head: number, row: number, keySeed: number, key: number): number =>
    Array.from(
      { length: keyDim },
      (_, c) => number(seed, layer, head, row, c) * number(keySeed, layer, kvHead, key, c),
    ).reduce((a, b) => a + b, 0)
  for (const [i, { tokens, from, to, sinks = 0 }] of PASSES.entries()) {
    const seed = 10 * (i + 1)
    for (let g = 0; g < queryHeads / kvHeads; g++)
      for (let t = 0; t < tokens.length; t++) {
        const head = kvHead * (queryHeads / kvHeads) + g
        const row = CONTEXT + t
        const among = [
          ...Array.from({ length: CONTEXT }, (_, key) => key).filter((key) => key < sinks || (key >= from && key < to)),
          ...Array.from({ length: t + 1 }, (_, own) => CONTEXT + own),
        ]
        const weights = among.map((key) =>
          Math.exp(attentionScale * dot(seed + 1, head, row, key < CONTEXT ? 2 : seed + 2, key)),
        )
        const total = weights.reduce((a, b) => a + b, 0)
        for (const [j, key] of among.entries())
          if (key >= from && key < to) scores[key] = Math.max(scores[key] ?? 0, (weights[j] ?? 0) / total)
      }
  }
  return scores
}

async function positionsOf(cache: KVCache, layer: number): Promise<number[][]> {
  const { keys, values, positions } = await cache.materialize(layer)
  tf.dispose([keys, values])
  return positions.map((own) => [...own].filter((p) => p >= 0))
}

describe('replay', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await tf.setBackend('wasm')
  })

  it('keeps what the passes attended to, seals after them, and holds nothing of them', async () => {
    const before = tf.memory().numBytes
    const cache = openCache(model, ready(compose(replaying({ keep: 0.5 }), blocks({ block: 32 }))))
    await feed(cache, 30, 'prompt')
    expect(cache.replay).toBeNull()
    await feed(cache, 10, 'promptEnd')
    expect(cache.census(0).keys).toMatchObject({ sealed: 0, exact: CONTEXT })
    const pending = cache.replay
    const [pass] = pending?.passes(TEXTS) ?? []
    if (!pass) throw new Error('no pass')
    const copy = pending?.open(pass)
    if (!copy) throw new Error('no copy')
    await feed(copy, 3, 'prompt', 10)
    expect(cache.bytes().total + copy.bytes().total - copy.bytes().shared).toBe(tf.memory().numBytes - before)
    copy.dispose()
    await replay(cache)
    for (let layer = 0; layer < layers; layer++) {
      const held = await positionsOf(cache, layer)
      for (let h = 0; h < kvHeads; h++) {
        const scores = plainScores(layer, h)
        const best = [...scores.keys()].sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b).slice(0, 20)
        expect(held[h]).toEqual(best.sort((a, b) => a - b))
      }
    }
    expect(cache.replay).toBeNull()
    expect(cache.bytes().total).toBe(tf.memory().numBytes - before)
    await feed(cache, 1, 'decode')
    cache.dispose()
    expect(tf.memory().numBytes).toBe(before)
  })

  it('lets nothing else happen until the passes are through, and frees everything when it is given up', async () => {
    const before = tf.memory().numBytes
    const cache = openCache(model, ready(compose(replaying(), dense)))
    await feed(cache, CONTEXT, 'promptEnd')
    for (const call of [
      () => cache.begin(Int32Array.of(1), 'decode'),
      () => cache.fork(),
      () => cache.serialize(),
      () => cache.rollback(1),
    ])
      expect(call).toThrow(CacheStateError)
    const pending = cache.replay
    expect(() => pending?.open({ tokens: Int32Array.of(1), from: 5, to: 41 })).toThrow(CacheStateError)
    expect(() => pending?.open({ tokens: new Int32Array(0), from: 5, to: 10 })).toThrow(CacheStateError)
    await pending?.finish()
    await expect(pending?.finish()).rejects.toThrow(CacheStateError)
    await feed(cache, 1, 'decode')
    cache.dispose()
    const given = openCache(model, ready(compose(replaying(), dense)))
    await feed(given, CONTEXT, 'promptEnd')
    given.dispose()
    expect(tf.memory().numBytes).toBe(before)
  })
})

describe('hidden states', () => {
  it('are seen by who asks for them, over chunks, as a fork and a restored copy see them', async () => {
    const before = tf.memory().numBytes
    const make = () => ready(compose(byHidden({ keep: 0.25 }), dense))
    const cache = openCache(model, make())
    expect(cache.wantsHidden?.(0)).toBe(true)
    await feed(cache, 12, 'prompt', 0, true)
    const fork = cache.fork()
    const restored = await restoreCache(model, make(), await bytesOf(cache))
    for (const each of [cache, fork, restored]) {
      expect(each.bytes().state).toBeGreaterThanOrEqual(12 * keyDim * 4 * layers)
      await feed(each, 12, 'promptEnd', 0, true)
      for (let layer = 0; layer < layers; layer++) {
        const length = (p: number): number =>
          Array.from({ length: keyDim }, (_, c) => number(9, layer, 0, p, c) ** 2).reduce((a, b) => a + b, 0)
        const newest = Array.from({ length: 16 }, (_, i) => 8 + i).sort((a, b) => length(b) - length(a))
        const kept = newest.slice(0, 6).sort((a, b) => a - b)
        expect(await positionsOf(each, layer)).toEqual([kept, kept])
      }
      await feed(each, 1, 'decode', 0, true)
      each.dispose()
    }
    expect(tf.memory().numBytes).toBe(before)
  })

  it('are asked for by name where they are not handed over', async () => {
    const cache = openCache(model, ready(compose(byHidden(), dense)))
    await expect(feed(cache, 4, 'promptEnd')).rejects.toThrow(ModelMismatch)
    cache.dispose()
    const plain = openCache(model, ready(dense))
    expect(plain.wantsHidden?.(0)).toBe(false)
    plain.dispose()
  })
})
