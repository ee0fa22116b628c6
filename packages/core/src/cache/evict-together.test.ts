/** One set of tokens for all layers, one budget over all heads: what is decided once every layer has attended. */
import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import '@tensorflow/tfjs-backend-wasm'
import { beforeAll, describe, expect, it } from 'vitest'
import { dropping } from '../accept'
import { ready } from '../artifacts'
import { compose, exceptLayers, foldSpace, onLayers, window } from '../compose'
import type { KVCache, KVCompressor, Picker, Stage } from '../contract'
import { defineMethod, definePick, defineScorer } from '../define'
import { IncompatibleStages, OptionError } from '../errors'
import { fraction } from '../options'
import { sharedTokens } from '../shared-tokens'
import { blocks, bytesOf, dense, model, rows } from '../testing/cache-toys'
import { restoreCache } from './file/restore'
import { openCache } from './open'

/** Keeps the keys of the largest length. */
const longest = defineScorer({
  name: 'longest',
  options: { keep: fraction({ default: 0.5, doc: '' }) },
  needs: { keys: { of: 'keys' } },
  score: ({ keys }) => tf.sum(tf.square(keys), 2),
})

/** Every head keeps the rows that its mask names. */
const raggedPick: Picker = {
  needs: {},
  positions: 'original',
  ragged: true,
  count: (tokens) => tokens,
  keep: (tokens) => [{ start: 0, end: tokens }],
}

/** Gives every head of the model as many rows as its scores lie among the best of all heads. */
const overAll = defineMethod(
  { name: 'over-all', title: '', summary: '', chunkInvariant: true },
  {},
  (): Pick<KVCompressor, 'stages'> => {
    const stage: Stage<'budget'> = {
      kind: 'budget',
      id: 'over-all',
      options: {},
      when: 'promptEnd',
      facts: { ragged: true },
      accepts: (space) => dropping(space, 'head', 'promptEnd'),
      bind: () => ({
        ragged: true,
        over: 'model',
        counts: (scores, _, heads) => {
          const all = scores.flatMap((own, head) => [...own.dataSync()].map((score) => ({ score, head })))
          const best = all
            .sort((a, b) => b.score - a.score)
            .slice(
              0,
              heads.reduce((n, { uniform }) => n + uniform, 0),
            )
          return heads.map((_, head) => best.filter((each) => each.head === head).length)
        },
      }),
    }
    return { stages: [stage] }
  },
)

/** Lengths of keys by layer, head and position: what a plain computation ranks. */
const lengthOf = (layer: number, head: number, position: number): number =>
  1 + ((position * 37 + layer * 11 + head * 5) % 101) / 100 + layer * 0.05

function rowsAt(layer: number, heads: number, from: number, n: number): tf.Tensor {
  const values = new Float32Array(heads * n * model.keyDim)
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < n; i++)
      values[(h * n + i) * model.keyDim + ((from + i + h) % model.keyDim)] = lengthOf(layer, h, from + i)
  return tf.tensor3d(values, [heads, n, model.keyDim])
}

async function feed(cache: KVCache, n: number, phase: 'prompt' | 'promptEnd' | 'decode'): Promise<void> {
  const from = cache.tokensSeen
  cache.begin(new Int32Array(n).fill(1), phase)
  for (let layer = 0; layer < model.layers; layer++) {
    const [queries, keys] = [rowsAt(layer, model.queryHeads, from, n), rowsAt(layer, model.kvHeads, from, n)]
    tf.dispose([queries, keys, await cache.attend(layer, { queries, keys, values: keys })])
  }
  await cache.commit()
}

/** Positions held, `[layer][head]`. */
async function held(cache: KVCache): Promise<number[][][]> {
  const all: number[][][] = []
  for (let layer = 0; layer < model.layers; layer++) {
    const heads: number[][] = []
    for (const [lane] of cache.segments(layer).entries()) {
      const { keys, values, positions } = await cache.materialize(layer, lane)
      tf.dispose([keys, values])
      heads.push(...positions.map((own) => [...own].filter((p) => p >= 0)))
    }
    all.push(heads)
  }
  return all
}

const best = (scores: readonly number[], count: number): number[] =>
  [...scores.keys()]
    .sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
    .slice(0, count)
    .sort((a, b) => a - b)
const heads = Array.from({ length: model.kvHeads }, (_, h) => h)
const layers = Array.from({ length: model.layers }, (_, l) => l)
const square = (layer: number, head: number, position: number): number => lengthOf(layer, head, position) ** 2
const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0)

describe('decisions over layers', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await tf.setBackend('wasm')
  })

  it('keeps the same tokens in all layers, those of the largest mean score, and goes on as a second prompt comes', async () => {
    const cache = openCache(model, ready(compose(sharedTokens('model', longest({ keep: 0.25 })), dense)))
    await feed(cache, 30, 'prompt')
    await feed(cache, 18, 'promptEnd')
    const means = Array.from({ length: 48 }, (_, p) => sum(layers.flatMap((l) => heads.map((h) => square(l, h, p)))))
    const kept = best(means, 12)
    expect(await held(cache)).toEqual(layers.map(() => heads.map(() => kept)))
    await feed(cache, 1, 'decode')
    await feed(cache, 3, 'promptEnd')
    const [[first] = []] = await held(cache)
    expect(await held(cache)).toEqual(layers.map(() => heads.map(() => first)))
    expect(first).toHaveLength(4)
    cache.dispose()
  })

  it('keeps one set per layer by the mean over its heads', async () => {
    const cache = openCache(model, ready(compose(sharedTokens('layer', longest({ keep: 0.5 })), dense)))
    await feed(cache, 40, 'promptEnd')
    const expected = layers.map((l) => {
      const own = best(
        Array.from({ length: 40 }, (_, p) => sum(heads.map((h) => square(l, h, p)))),
        20,
      )
      return heads.map(() => own)
    })
    expect(await held(cache)).toEqual(expected)
    cache.dispose()
  })

  it('shares one budget out over the heads of all layers', async () => {
    const cache = openCache(model, ready(compose(longest({ keep: 0.5 }), overAll(), dense)))
    await feed(cache, 40, 'promptEnd')
    const all = layers.flatMap((l) =>
      heads.flatMap((h) => Array.from({ length: 40 }, (_, p) => ({ l, h, p, score: Math.fround(square(l, h, p)) }))),
    )
    const chosen = all.sort((a, b) => b.score - a.score).slice(0, (layers.length * heads.length * 40) / 2)
    const counts = layers.map((l) => heads.map((h) => chosen.filter((row) => row.l === l && row.h === h).length))
    expect((await held(cache)).map((layer) => layer.map((own) => own.length))).toEqual(counts)
    expect(new Set(counts.flat()).size).toBeGreaterThan(1)
    cache.dispose()
  })

  it('seals after the decision, as its fork and its restored copy do, and frees everything', async () => {
    const make = () => compose(sharedTokens('model', longest({ keep: 0.5 })), blocks({ block: 32 }))
    const before = tf.memory().numBytes
    const cache = openCache(model, ready(make()))
    await feed(cache, 100, 'prompt')
    expect(cache.census(0).keys.sealed).toBe(0)
    await feed(cache, 60, 'promptEnd')
    expect(cache.census(0).keys).toMatchObject({ sealed: 64, exact: 16 })
    expect(cache.bytes().total).toBe(tf.memory().numBytes - before)
    const fork = cache.fork()
    const restored = await restoreCache(model, ready(make()), await bytesOf(cache))
    for (const each of [cache, fork, restored]) {
      await feed(each, 1, 'decode')
      await feed(each, 40, 'promptEnd')
    }
    const expected = await held(cache)
    expect(await held(fork)).toEqual(expected)
    expect(await held(restored)).toEqual(expected)
    for (const each of [cache, fork, restored]) each.dispose()
    expect(tf.memory().numBytes).toBe(before)
  })

  it('says what space it leaves, and refuses what cannot share', () => {
    const over = (c: KVCompressor) => foldSpace(c.stages, 'keys').tokenSets
    expect(over(longest())).toBe('head')
    expect(over(sharedTokens('layer', longest()))).toBe('layer')
    expect(over(sharedTokens('model', longest()))).toBe('model')
    expect(over(onLayers([0], sharedTokens('model', longest())))).toBe('layer')
    expect(over(exceptLayers([0], sharedTokens('model', longest())))).toBe('layer')
    expect(() => sharedTokens('head' as never, longest())).toThrow(OptionError)
    expect(() => sharedTokens('model', dense)).toThrow(IncompatibleStages)
    const different =
      /longest and over-all cannot be composed: .* over-all leaves heads with different numbers of them\. Leave out over-all/
    expect(() => sharedTokens('model', compose(longest(), overAll()))).toThrow(different)
    expect(() => compose(sharedTokens('layer', longest()), overAll(), dense)).toThrow(different)
    const apart = [onLayers([0], sharedTokens('layer', longest())), onLayers([1], compose(longest(), overAll()))]
    expect(() => compose(...apart)).not.toThrow()
    const plain = definePick({ name: 'by-mask', options: {}, pick: () => raggedPick })
    expect(() => openCache(model, ready(compose(longest(), plain(), dense)))).toThrow(
      /by-mask cannot run in this cache: its facts declare ragged false, and it is bound with true/,
    )
    const declared = definePick({ name: 'by-mask', options: {}, ragged: true, pick: () => raggedPick })
    expect(() => openCache(model, ready(compose(longest(), declared(), dense))).dispose()).not.toThrow()
    expect(() => compose(sharedTokens('layer', longest()), declared())).toThrow(/by-mask leaves heads with different/)
  })

  it('frees what waits for a decision when the cache is given up', async () => {
    const before = tf.memory().numTensors
    const cache = openCache(model, ready(compose(sharedTokens('model', longest()), window({ sinks: 2 }, rows()))))
    cache.begin(new Int32Array(8).fill(1), 'promptEnd')
    const [queries, keys] = [rowsAt(0, model.queryHeads, 0, 8), rowsAt(0, model.kvHeads, 0, 8)]
    tf.dispose([queries, keys, await cache.attend(0, { queries, keys, values: keys })])
    cache.dispose()
    expect(tf.memory().numTensors).toBe(before)
  })
})
