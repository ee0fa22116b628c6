import { shapesOf, syntheticModel, testCompressor } from '@kvloom/conformance'
import {
  compose,
  defineScorer,
  foldSpace,
  IncompatibleStages,
  keySide,
  ModelMismatch,
  type ModelShape,
  OptionError,
  openCache,
  ready,
  siteOf,
  stagesOn,
  type Transform,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels, rope } from '@kvloom/kernels'
import {
  add,
  clone,
  concat,
  cos,
  dispose,
  memory,
  mul,
  neg,
  norm,
  pow,
  randomNormal,
  range,
  reshape,
  setBackend,
  sin,
  slice,
  sub,
  sum,
  type Tensor,
  tensor3d,
  zeros,
} from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { minicache } from './minicache'

type Options = NonNullable<Parameters<typeof minicache>[0]>

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, {
  name: 'minicache',
  make: () => minicache({ start: 0, block: 16 }),
  identity: () => window({ store: 'f32' }, minicache({ start: 0, block: 16, gamma: 1 })),
})
testCompressor(runner, {
  name: 'minicache, a layer alone and two pairs',
  make: () => minicache({ start: 1, block: 16 }),
  shapes: shapesOf(5).slice(0, 1),
  backends: ['wasm'],
})
testCompressor(runner, {
  name: 'minicache, bands',
  make: () => minicache({ start: 0, block: 16, retention: 'cosineBand', gamma: 0.2 }),
  backends: ['wasm'],
})

const shape = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 32, valueDim: 32 })
const modelOf = (layers: number): ModelShape => ({ ...shape, layers })

function bound(options: Options = {}, layer = 1, layers = 2): Transform {
  const [stage] = stagesOn(minicache({ start: 0, ...options }), 'transform', layer, 'keys')
  if (!stage) throw new Error('minicache has no stage for keys')
  return stage.bind(siteOf(modelOf(layers), layer, 'keys'))
}
const pairs = (layers: number, options: Options = {}) =>
  Array.from({ length: layers }, (_, layer) => bound({ start: 'middle', ...options }, layer, layers).layers)

/** Both layers as they come back, `[heads, n, dim]` each. */
function restore(transform: Transform, a: Tensor, b: Tensor): [Tensor, Tensor] {
  const { main, scale, exempt } = transform.encode([a, b], {})
  const [heads = 0, n = 0] = a.shape
  const row = (x: Tensor) => reshape(x, [heads, n, 1])
  const keep = row(exempt ?? zeros([heads, n]))
  const of = (exact: Tensor, lengths: Tensor) => add(mul(keep, exact), mul(sub(1, keep), mul(main, row(lengths))))
  return [of(a, scale?.[0] ?? main), of(b, scale?.[1] ?? main)]
}

const random = (seed: number, n = 20, heads = 2): Tensor => randomNormal([heads, n, 32], 0, 3, 'float32', seed)

async function largestDifference(a: Tensor, b: Tensor): Promise<number> {
  const [x, y] = [[...(await a.data())], [...(await b.data())]]
  expect(x.length).toBe(y.length)
  return x.reduce((most, v, i) => Math.max(most, Math.abs(v - (y[i] ?? Number.NaN))), 0)
}

/** f32: angles, sines and a division, on rows of lengths up to about 30. */
const TOLERANCE = 2e-4

/** Lengths are stored as halves: this share of an element. */
const HALF = 2 ** -11
/** No element of these rows is larger. */
const LONGEST = 16

/** Rows of every head `[heads, rows, dim]` in the order of their positions. */
async function inOrder(rows: Tensor, positions: readonly Int32Array[]): Promise<Tensor> {
  const [heads = 0, n = 0, dim = 0] = rows.shape
  const x = await rows.data()
  const sorted = new Float32Array(heads * n * dim)
  for (let head = 0; head < heads; head++)
    for (let row = 0; row < n; row++) {
      const at = positions[head]?.[row] ?? Number.NaN
      sorted.set(x.slice((head * n + row) * dim, (head * n + row + 1) * dim), (head * n + at) * dim)
    }
  return tensor3d(sorted, [heads, n, dim])
}

describe('minicache', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('pairs layers from the middle on and leaves the rest alone', () => {
    expect(pairs(8)).toEqual([[], [], [], [], [4, 5], [4, 5], [6, 7], [6, 7]])
    expect(pairs(7)).toEqual([[], [], [], [3, 4], [3, 4], [5, 6], [5, 6]])
    expect(pairs(6)).toEqual([[], [], [], [3, 4], [3, 4], []])
    expect(pairs(5, { start: 0 })).toEqual([[0, 1], [0, 1], [2, 3], [2, 3], []])
    expect(pairs(5, { start: 3 })).toEqual([[], [], [], [3, 4], [3, 4]])
    expect(
      pairs(30)
        .flat()
        .filter((layer, i, all) => all.indexOf(layer) === i),
    ).toEqual(Array.from({ length: 14 }, (_, i) => 15 + i))
  })

  it('refuses a model without two layers to merge', () => {
    expect(() => bound({ start: 'middle' }, 0, 2)).toThrow(ModelMismatch)
    expect(() => bound({ start: 7 }, 0, 8)).toThrow(/smaller start/)
    expect(() => bound({ start: 6 }, 0, 8)).not.toThrow()
  })

  it('restores equal and parallel layers', async () => {
    const a = random(1)
    const [sameA, sameB] = restore(bound({ gamma: 0 }), a, a)
    expect(await largestDifference(sameA, a)).toBeLessThan(TOLERANCE)
    expect(await largestDifference(sameB, a)).toBeLessThan(TOLERANCE)
    const longer = mul(a, 3)
    const [short, long] = restore(bound({ gamma: 0 }), a, longer)
    expect(await largestDifference(short, a)).toBeLessThan(TOLERANCE)
    expect(await largestDifference(long, longer)).toBeLessThan(3 * TOLERANCE)
  })

  it('keeps lengths, and stores unit rows', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 1e6 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        async (seed, t) => {
          const [a, b] = [random(seed), random(seed + 1)]
          const transform = bound({ t, gamma: 0 })
          const { main, exempt } = transform.encode([a, b], {})
          expect(exempt).toBeUndefined()
          for (const length of await norm(main, 'euclidean', 2).data()) expect(length).toBeCloseTo(1, 4)
          const [back, up] = restore(transform, a, b)
          for (const [x, y] of [
            [back, a],
            [up, b],
          ] as const)
            expect(await largestDifference(norm(x, 'euclidean', 2), norm(y, 'euclidean', 2))).toBeLessThan(TOLERANCE)
        },
      ),
      { numRuns: 10 },
    )
  })

  it('restores the lower layer at t = 0 and the upper one at t = 1', async () => {
    const [a, b] = [random(2), random(3)]
    expect(await largestDifference(restore(bound({ t: 0, gamma: 0 }), a, b)[0], a)).toBeLessThan(TOLERANCE)
    expect(await largestDifference(restore(bound({ t: 1, gamma: 0 }), a, b)[1], b)).toBeLessThan(TOLERANCE)
  })

  it('merges the same before and after rotation', async () => {
    const [a, b] = [random(4), random(5)]
    const angles = mul(reshape(range(0, 20), [20, 1]), reshape(pow(0.5, range(0, 16)), [1, 16])) // [positions, pairs]
    const turn = (x: Tensor): Tensor => rope(x, { cos: cos(angles), sin: sin(angles) }, range(0, 20, 1, 'int32'))
    const [a1, b1] = restore(bound(), turn(a), turn(b))
    const [a0, b0] = restore(bound(), a, b)
    expect(await largestDifference(a1, turn(a0))).toBeLessThan(TOLERANCE)
    expect(await largestDifference(b1, turn(b0))).toBeLessThan(TOLERANCE)
  })

  it('keeps everything exact when all may stay', async () => {
    const [a, b] = [random(6), random(7)]
    for (const retention of ['topRatioPerHead', 'cosineBand', 'minAngleBand'] as const) {
      const [exactA, exactB] = restore(bound({ retention, gamma: 1 }), a, b)
      expect(await largestDifference(exactA, a)).toBe(0)
      expect(await largestDifference(exactB, b)).toBe(0)
    }
  })

  it('decides within a block, however many rows come at once', async () => {
    const [a, b] = [random(8, 40), random(9, 40)]
    for (const retention of ['topRatioPerHead', 'cosineBand', 'minAngleBand'] as const) {
      const transform = bound({ retention, gamma: 0.2, block: 16 })
      const whole = transform.encode([a, b], {})
      const pieces = [0, 16, 32].map((from) => {
        const cut = (x: Tensor) => slice(x, [0, from, 0], [2, Math.min(16, 40 - from), 32])
        return transform.encode([cut(a), cut(b)], {})
      })
      const join = (of: (e: (typeof pieces)[number]) => Tensor | undefined) =>
        concat(
          pieces.map((e) => of(e) ?? zeros([0, 0])),
          1,
        )
      expect(
        await largestDifference(
          whole.main,
          join((e) => e.main),
        ),
      ).toBe(0)
      expect(
        await largestDifference(
          whole.exempt ?? a,
          join((e) => e.exempt),
        ),
      ).toBe(0)
    }
  })

  it('keeps of each head the rows that differ most, earlier ones first', async () => {
    const a = tensor3d([1, 0, 1, 0, 1, 0, 1, 0], [1, 4, 2])
    const b = tensor3d([1, 1, -1, 1, 0, 1, -1, 1], [1, 4, 2]) // 45, 135, 90 and 135 degrees
    const maskOf = async (options: Options) => [...((await bound(options).encode([a, b], {}).exempt?.data()) ?? [])]
    expect(await maskOf({ gamma: 0.25 })).toEqual([0, 1, 0, 0])
    expect(await maskOf({ gamma: 0.26 })).toEqual([0, 1, 0, 1])
    expect(await maskOf({ retention: 'minAngleBand', gamma: 0.1 })).toEqual([1, 0, 0, 0])
    expect(await maskOf({ retention: 'cosineBand', gamma: 0.1 })).toEqual([0, 1, 0, 1])
  })

  it('comes back from a cache as the stage merged it, retained rows bit for bit', async () => {
    const model = modelOf(3)
    const options: Options = { start: 0, block: 8, gamma: 0.25 }
    const layers = [random(11, 16), random(12, 16), random(13, 16)]
    const queries = random(14, 16, model.queryHeads)
    const cache = openCache(model, ready(window({ store: 'f32' }, minicache(options))))
    cache.begin(new Int32Array(16), 'promptEnd')
    for (const [layer, rows] of layers.entries())
      (await cache.attend(layer, { queries, keys: rows, values: rows })).dispose()
    await cache.commit()
    const [a, b, alone] = layers as [Tensor, Tensor, Tensor]
    const held = await Promise.all([0, 1, 2].map((layer) => cache.materialize(layer)))
    const mask = bound(options).encode([a, b], {}).exempt ?? zeros([2, 16])
    expect([...(await sum(mask, 1).data())]).toEqual([4, 4]) // ceil(0.25 · 8) of each block
    const kept = reshape(mask, [2, 16, 1])
    const merged = restore(bound(options), a, b)
    for (const [member, exact] of [a, b].entries()) {
      const { values, positions } = held[member] ?? { values: a, positions: [] }
      const order = await inOrder(values, positions)
      expect(await largestDifference(mul(kept, order), mul(kept, exact))).toBe(0)
      expect(await largestDifference(order, merged[member] ?? a)).toBeLessThan(HALF * LONGEST)
    }
    expect(await largestDifference(held[2]?.values ?? a, alone)).toBe(0)
    expect(cache.census(2).values).toMatchObject({ exact: 16, sealed: 0 })
    cache.dispose()
  })

  it('seals a single row, whichever rows are retained', async () => {
    const z = (block: number, drain: 'blocks' | 'all') => ({ recent: 0, block, drain })
    const alone = { keys: z(1, 'blocks'), values: z(1, 'blocks') }
    const leftOver = { keys: z(4, 'all'), values: z(4, 'all') } // 5 rows are 4 and 1, or 5 at once
    const before = memory().numTensors
    for (const retention of ['topRatioPerHead', 'cosineBand', 'minAngleBand'] as const)
      for (const gamma of [0, 0.05, 1])
        for (const windows of [alone, leftOver]) {
          const cache = openCache(shape, ready(window(windows, minicache({ start: 0, block: 4, retention, gamma }))))
          for (const phase of ['promptEnd', 'decode'] as const) {
            const n = phase === 'promptEnd' ? 5 : 1
            cache.begin(new Int32Array(n), phase)
            for (let layer = 0; layer < shape.layers; layer++) {
              const [queries, rows] = [random(layer, n, shape.queryHeads), random(7 + layer, n)]
              const output = await cache.attend(layer, { queries, keys: rows, values: rows })
              for (const v of await output.data()) expect(Number.isFinite(v)).toBe(true)
              dispose([output, queries, rows])
            }
            await cache.commit()
          }
          expect(cache.census(0).values.sealed).toBe(windows === alone ? 6 : 5)
          cache.dispose()
          expect(memory().numTensors).toBe(before)
        }
  })

  it('merges no rows into no rows', () => {
    for (const retention of ['topRatioPerHead', 'cosineBand', 'minAngleBand'] as const) {
      const none = zeros([2, 0, 32])
      expect(bound({ retention }).encode([none, none], {}).exempt?.shape).toEqual([2, 0])
    }
  })

  it('stays finite for zero and opposite rows', async () => {
    const a = random(10, 3)
    const zero = zeros(a.shape)
    for (const t of [0, 0.5, 0.6, 1])
      for (const [x, y] of [
        [a, zero],
        [zero, a],
        [zero, zero],
        [a, neg(a)],
      ] as const)
        for (const back of restore(bound({ t, gamma: 0 }), x, clone(y)))
          for (const v of await back.data()) expect(Number.isFinite(v)).toBe(true)
    const [left, right] = restore(bound({ gamma: 0 }), a, zero)
    expect(await largestDifference(left, a)).toBeLessThan(TOLERANCE) // the only direction there is
    expect(await largestDifference(right, zero)).toBe(0)
  })

  it('takes keys on either side of RoPE, with the same tokens in all layers', () => {
    expect(keySide(minicache().stages, 20)).toBe('post')
    expect(foldSpace(minicache().stages, 'keys')).toMatchObject({ layerGroup: 2, latent: true, rope: 'free' })
    const scorer = defineScorer({ name: 'some-scorer', needs: {}, score: () => zeros([1, 1]) })
    expect(() => compose(scorer(), minicache())).toThrow(IncompatibleStages)
    expect(() => compose(minicache(), minicache())).toThrow(IncompatibleStages)
  })

  it('refuses options out of range', () => {
    expect(() => minicache({ t: 1.1 })).toThrow(OptionError)
    expect(() => minicache({ gamma: -0.1 })).toThrow(OptionError)
    expect(() => minicache({ block: 0 })).toThrow(OptionError)
    expect(() => minicache({ start: -1 })).toThrow(OptionError)
  })
})
