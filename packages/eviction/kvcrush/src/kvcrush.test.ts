import { SHAPES, syntheticModel, testCompressor, testSettings } from '@kvloom/conformance'
import {
  compose,
  defineMethod,
  defineScorer,
  IncompatibleStages,
  type KVCache,
  type KVCompressor,
  OptionError,
  openCache,
  ready,
  sharedTokens,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { dispose, memory, norm, randomNormal, setBackend, tensor3d } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { choose, compare, type Rows, rowsByPage } from './choose'
import { kvcrush } from './kvcrush'
import { randomBits } from './random-bits'
import { anchorOf, betterHalf, byDistance, distancesTo, largest, ranksOf } from './signatures'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })

/** Any scorer will do. */
const byLength = defineScorer({
  name: 'by-length',
  needs: { keys: { of: 'keys' } },
  score: ({ keys }) => norm(keys, 2, -1),
})
const small = { sinks: 2, recent: 4 } as const
testCompressor(runner, {
  name: 'kvcrush over key lengths',
  make: () => compose(byLength({ keep: 0.4 }), kvcrush(small)),
  identity: () => window({ store: 'f32' }, compose(byLength({ keep: 1 }), kvcrush())),
  backends: ['wasm'],
})
testCompressor(runner, {
  name: 'kvcrush, pages, bits of query heads',
  make: () =>
    compose(byLength({ keep: 0.4 }), kvcrush({ ...small, page: 3, signature: 'query', window: 5, share: 0.6 })),
  backends: ['cpu', 'wasm'],
  shapes: SHAPES.slice(0, 1),
})
testCompressor(runner, {
  name: 'kvcrush, one set of tokens for the model, almost nothing',
  make: () =>
    compose(sharedTokens('model', byLength({ keep: 0.02 })), kvcrush({ sinks: 0, recent: 0, page: 4, share: 1 })),
  backends: ['wasm'],
  shapes: SHAPES.slice(0, 1),
})
const drawn = defineMethod(kvcrush.card, kvcrush.options, (options) =>
  compose(byLength({ keep: 0.3 }), kvcrush(options)),
)
testSettings(runner, { name: 'kvcrush', methods: [drawn], seed: 3, samples: 4 })

const defaults = {
  share: 0.25,
  anchor: 'mean',
  signature: 'kv',
  window: 16,
  page: 1,
  spacing: 'even',
  sinks: 0,
  recent: 0,
  seed: 0,
} as const
const rowsOf = (scores: readonly number[], positions = scores.map((_, i) => i)): Rows => ({
  scores: Float32Array.from(scores),
  positions: Int32Array.from(positions),
})
const votersOf = (all: readonly Rows[]) => all.map((rows) => ({ scores: rows.scores, rows }))
const chosen = (all: readonly Rows[], count: number, options: Partial<typeof defaults> | object = {}) =>
  choose(all, votersOf(all), count, { ...defaults, ...options }).map((mask) =>
    [...mask.keys()].filter((row) => mask[row] === 1),
  )
const Gone = Number.NEGATIVE_INFINITY
const Stays = Number.POSITIVE_INFINITY

describe('signatures of kvcrush', () => {
  it('mark the better half, the earlier of two that tie', () => {
    expect([...betterHalf([3, 1, 2, 0])]).toEqual([1, 0, 1, 0])
    expect([...betterHalf([1, 1, 1])]).toEqual([1, 0, 0])
    expect([...betterHalf([5])]).toEqual([0])
    expect([...betterHalf([])]).toEqual([])
  })

  it('have a bit per head and token of a page; missing tokens have 0', () => {
    const all = [rowsOf([4, 3, 2, 1, 0]), rowsOf([0, 1, 2, 3, 4])]
    const { signatures } = compare(all, votersOf(all), { page: 2, anchor: 'mean', seed: 0 })
    expect(signatures.width).toBe(4)
    expect([...signatures.bits]).toEqual([1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0])
  })

  it('meet tokens by position where heads hold different ones', () => {
    const all = [rowsOf([9, 1, 8], [3, 5, 6]), rowsOf([7, 2], [5, 7])]
    const { region, signatures } = compare(all, votersOf(all), { page: 1, anchor: 'mean', seed: 0 })
    expect(region).toEqual({ from: 3, pages: 5 })
    // Positions 3 to 7, of each the bits of head 0 and head 1.
    expect([...signatures.bits]).toEqual([1, 0, 0, 0, 0, 1, 0, 0, 0, 0])
    expect(rowsByPage(all[0] as Rows, region, 2)).toEqual([[0], [1, 2], [], [], []])
  })

  it('are compared with an anchor of each kind; turning every bit of it turns distances around', () => {
    const signatures = { bits: Uint8Array.of(1, 0, 1, 1, 1, 0), width: 2 }
    const anchors = (['mean', 'inverse-mean', 'alternating', 'zeros', 'ones'] as const).map((anchor) => [
      ...anchorOf(signatures, anchor, 0),
    ])
    expect(anchors).toEqual([
      [1, 0],
      [0, 1],
      [0, 1],
      [0, 0],
      [1, 1],
    ])
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 12, maxLength: 12, max: 1 }),
        fc.uint8Array({ minLength: 4, maxLength: 4, max: 1 }),
        (bits, anchor) => {
          const distances = distancesTo(anchor, { bits, width: 4 })
          const turned = distancesTo(
            anchor.map((bit) => 1 - bit),
            { bits, width: 4 },
          )
          expect(distances.map((distance) => 4 - distance)).toEqual(turned)
          expect(distancesTo(bits.slice(4, 8), { bits, width: 4 })[1]).toBe(0)
        },
      ),
    )
  })

  it('draw the bits of the standard generator, beyond the first 624 too', () => {
    // Top bits of mt19937's first numbers for the seed 5489: 3499211612, 581869302, 3890346734, 3586334585, 545404204.
    expect([...randomBits(5, 5489)]).toEqual([1, 0, 1, 1, 0])
    const many = randomBits(1300, 7)
    expect(randomBits(1300, 7)).toEqual(many)
    expect(many.reduce((a, b) => a + b, 0)).toBeGreaterThan(580)
    expect([...many.subarray(624, 640)]).not.toEqual([...many.subarray(0, 16)])
  })

  it('are taken at equal steps, first and last included, or at every n-th', () => {
    expect(ranksOf(36, 6, 'even')).toEqual([0, 7, 14, 21, 28, 35])
    expect(ranksOf(6, 2, 'stride')).toEqual([0, 3])
    expect(ranksOf(6, 1, 'even')).toEqual([0])
    expect(ranksOf(2, 5, 'even')).toEqual([0, 1])
    expect(ranksOf(2, 5, 'stride')).toEqual([0, 1])
    expect(ranksOf(0, 5, 'even')).toEqual([])
    expect(ranksOf(5, 0, 'even')).toEqual([])
    expect(byDistance([3, 0, 2], Int32Array.of(1, 0, 0, 1))).toEqual([2, 0, 3])
    expect(largest([1, 3, 3, 2], 2)).toEqual([1, 2])
    expect(largest([1, 3], -1)).toEqual([])
  })
})

describe('the choice of kvcrush', () => {
  const head = rowsOf([8, 7, 6, 5, 4, 3, 2, 1])

  it('keeps the best, and representatives of the others by distance', () => {
    // The better half is 0 to 3: with the anchor 0 the others stand at 4, 5, 6, 7 and then 2, 3.
    expect(chosen([head], 4, { share: 0.5, anchor: 'zeros' })).toEqual([[0, 1, 3, 4]])
    expect(chosen([head], 4, { share: 0, anchor: 'zeros' })).toEqual([[0, 1, 2, 3]])
    expect(chosen([head], 3, { share: 1, anchor: 'zeros' })).toEqual([[3, 4, 7]])
  })

  it('keeps what stays in any case, never what is gone, and every head as many as were asked for', () => {
    const scores = [Stays, 1, Gone, 5, 4, Gone, 3, Stays]
    for (const share of [0, 0.5, 1])
      for (const page of [1, 2, 5]) {
        const [rows = []] = chosen([rowsOf(scores)], 4, { share, page })
        expect(rows).toHaveLength(4)
        expect(rows).toEqual(expect.arrayContaining([0, 7]))
        expect(rows).not.toContain(2)
        expect(rows).not.toContain(5)
      }
  })

  it('keeps whole pages, and the best single rows where no page fits', () => {
    expect(chosen([head], 5, { page: 4, share: 0 })).toEqual([[0, 1, 2, 3, 4]])
    expect(chosen([rowsOf([1, 0, 9, 0, 3, 3, 0, 0])], 3, { page: 2, share: 0 })).toEqual([[2, 3, 4]])
  })

  it('is the exact count for any scores, pages and shares, ascending in no head more than once', () => {
    const score = fc.oneof(
      fc.float({ min: 0, max: 1, noNaN: true }),
      fc.constant(0),
      fc.constant(Gone),
      fc.constant(Stays),
    )
    fc.assert(
      fc.property(
        fc.array(fc.array(score, { minLength: 24, maxLength: 24 }), { minLength: 1, maxLength: 3 }),
        fc.integer({ min: 1, max: 24 }),
        fc.integer({ min: 1, max: 9 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.constantFrom('even', 'stride'),
        (scores, wanted, page, share, spacing) => {
          const all = scores.map((own) => rowsOf(own))
          const stays = Math.max(...scores.map((own) => own.filter((x) => x === Stays).length))
          const live = Math.min(...scores.map((own) => own.filter((x) => x !== Gone).length))
          const count = Math.max(wanted, stays)
          if (count > live) return
          for (const rows of chosen(all, count, { page, share, spacing })) expect(rows).toHaveLength(count)
        },
      ),
    )
  })
})

const model = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 8, valueDim: 8 })

/** Feeds random rows to every layer. */
async function feed(cache: KVCache, n: number, phase: 'promptEnd' | 'decode' = 'promptEnd'): Promise<void> {
  const seed = cache.tokensSeen + 1
  cache.begin(new Int32Array(n).fill(1), phase)
  for (let layer = 0; layer < model.layers; layer++) {
    const rows = (heads: number, of: number) => randomNormal([heads, n, 8], 0, 1, 'float32', 100 * layer + seed + of)
    const given = { queries: rows(4, 0), keys: rows(2, 7), values: rows(2, 13) }
    dispose([...Object.values(given), await cache.attend(layer, given)])
  }
  await cache.commit()
}
async function heldBy(cache: KVCache, layer = 0): Promise<number[][]> {
  const { keys, values, positions } = await cache.materialize(layer)
  dispose([keys, values])
  return positions.map((own) => [...own].filter((position) => position >= 0))
}
const heldAfter = async (make: () => KVCompressor, prompts: readonly number[]): Promise<number[][]> => {
  const cache = openCache(model, ready(make()))
  for (const n of prompts) await feed(cache, n)
  const held = await heldBy(cache)
  cache.dispose()
  return held
}

describe('kvcrush in a cache', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('keeps as many tokens as the scorer alone, other ones, and the same with a share of 0', async () => {
    const before = memory().numBytes
    const alone = await heldAfter(() => byLength({ keep: 0.5 }), [60])
    const none = await heldAfter(
      () => compose(byLength({ keep: 0.5 }), kvcrush({ share: 0, sinks: 0, recent: 0 })),
      [60],
    )
    const half = await heldAfter(
      () => compose(byLength({ keep: 0.5 }), kvcrush({ share: 0.5, sinks: 0, recent: 0 })),
      [60],
    )
    expect(none).toEqual(alone)
    expect(half.map(({ length }) => length)).toEqual([30, 30])
    for (const [head, own] of half.entries()) {
      const best = alone[head] ?? []
      expect(own.filter((position) => best.includes(position)).length).toBeGreaterThanOrEqual(15)
      expect(own).not.toEqual(best)
    }
    expect(memory().numBytes).toBe(before)
  })

  it('keeps sinks and the newest tokens after a prompt of one token, a short one and a second one', async () => {
    const make = () => compose(byLength({ keep: 0.1 }), kvcrush({ sinks: 3, recent: 5 }))
    expect(await heldAfter(make, [1])).toEqual([[0], [0]])
    expect(await heldAfter(make, [8])).toEqual([
      [0, 1, 2, 3, 4, 5, 6, 7],
      [0, 1, 2, 3, 4, 5, 6, 7],
    ])
    for (const own of await heldAfter(make, [50, 40])) {
      expect(own.slice(0, 3)).toEqual([0, 1, 2])
      expect(own.slice(-5)).toEqual([85, 86, 87, 88, 89])
    }
  })

  it('works over a scorer that acts at every step', async () => {
    const newest = defineScorer({
      name: 'newest',
      when: 'step',
      options: {},
      needs: { keys: { of: 'keys' } },
      count: (tokens) => Math.min(tokens, 20),
      score: ({ keys }) => norm(keys, 2, -1),
    })
    const cache = openCache(model, ready(compose(newest(), kvcrush({ sinks: 2, recent: 6, share: 0.5 }))))
    await feed(cache, 30)
    for (let step = 0; step < 5; step++) await feed(cache, 1, 'decode')
    for (const own of await heldBy(cache)) {
      expect(own).toHaveLength(20)
      expect(own.slice(-6)).toEqual([29, 30, 31, 32, 33, 34])
    }
    cache.dispose()
  })

  it('sees one set of tokens where heads share them', async () => {
    const shared = () =>
      compose(sharedTokens('layer', byLength({ keep: 0.5 })), kvcrush({ page: 4, signature: 'query' }))
    const [first, second] = await heldAfter(shared, [70])
    expect(first).toHaveLength(35)
    expect(second).toEqual(first)
  })

  it('refuses NaN before it is looked at', async () => {
    const cache = openCache(model, ready(compose(byLength(), kvcrush())))
    cache.begin(Int32Array.of(1), 'promptEnd')
    const rows = (heads: number) => tensor3d(new Float32Array(heads * 8).fill(Number.NaN), [heads, 1, 8])
    const given = { queries: rows(4), keys: rows(2), values: rows(2) }
    await expect(cache.attend(0, given)).rejects.toThrow(/NaN|finite/)
    dispose(Object.values(given))
    cache.dispose()
  })

  it('refuses to stand alone, beside another pick, and options out of range', () => {
    expect(() => compose(kvcrush())).toThrow(IncompatibleStages)
    expect(() => compose(byLength(), kvcrush(), kvcrush())).toThrow(/both pick among the same rows/)
    for (const options of [
      { share: -0.1 },
      { share: Number.NaN },
      { page: 0 },
      { anchor: 'median' },
      { seed: 2 ** 32 },
    ])
      expect(() => kvcrush(options as never)).toThrow(OptionError)
  })
})
