import { SHAPES, syntheticModel, syntheticRun, testCompressor } from '@kvloom/conformance'
import {
  type Artifact,
  ArtifactMismatch,
  CalibrationError,
  calibrate,
  type HostTensor,
  ModelMismatch,
  NOTHING_ASKED,
  OptionError,
  openCache,
  type Part,
  type Quantizer,
  type Site,
  siteOf,
  stagesOn,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { floatFromHalf, halfFromFloat, registerKernels } from '@kvloom/kernels'
import { lloydMaxOfSamples, seededRandom } from '@kvloom/math'
import { dispose, fill, memory, reshape, setBackend, type Tensor, tensor, tidy, transpose } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { learnSignposts, moved, nearest, qNormOf } from './fit'
import { kvquant } from './kvquant'
import { denseValues, keyOutliers, normalized, outliersPerEnd, quantileOf } from './split'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, { name: 'kvquant, 3 bits, 1 % outliers', make: () => kvquant(), backends: ['wasm'] })
testCompressor(runner, {
  name: 'kvquant, 2 bits, dense, Q-Norm, without gradients',
  make: () => kvquant({ bits: 2, dense: 1, qNorm: true, sensitivity: 'none', sinks: 2, recent: 5 }),
  backends: ['wasm'],
  shapes: SHAPES.slice(0, 2),
})
testCompressor(runner, {
  name: 'kvquant, many outliers, f32 metadata',
  make: () => kvquant({ bits: 4, dense: 0.5, metadata: 'f32', sinks: 0, keyOutliers: 3 }),
  backends: ['wasm'],
  shapes: SHAPES.slice(0, 2),
  decode: 40,
})

type Options = NonNullable<Parameters<typeof kvquant>[0]>
const model = syntheticModel({ queryHeads: 2, kvHeads: 2, keyDim: 16, valueDim: 16 })

/** `[heads, rows, dim]`; `scale` says by what each number is multiplied. */
function gaussian(seed: number, shape: readonly [number, number, number], scale: (at: number) => number = () => 1) {
  const random = seededRandom(seed)
  const values = Float32Array.from({ length: shape[0] * shape[1] * shape[2] }, (_, at) => scale(at) * random.gaussian())
  return { shape: [...shape], values }
}

function stageOf(options: Options, part: Part) {
  const [stage] = stagesOn(kvquant(options), 'quantize', 0, part)
  if (stage?.fit?.scope !== 'layer') throw new Error('kvquant has no stage that fits a layer')
  return { stage, fit: stage.fit }
}

async function fitted(options: Options, part: Part, target: readonly HostTensor[], gradients?: readonly HostTensor[]) {
  const [heads = 0, , dim = 0] = target[0]?.shape ?? []
  const samples = { layer: 0, part, model, heads, dim, target, sources: [], ...(gradients ? { gradients } : {}) }
  return stageOf(options, part).fit.run(samples, NOTHING_ASKED)
}

const artifactOf = (part: Part, tensors: Readonly<Record<string, HostTensor>>): Artifact => ({
  stage: 'kvquant',
  fingerprint: 'test',
  json: null,
  tensors: Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [`0.${part}.${name}`, tensor])),
})

interface Through {
  readonly back: Float32Array
  readonly shapes: Readonly<Record<string, readonly number[]>>
  readonly quantizer: Quantizer
}

/** Rows through bits and back, with what was learned of others. */
function through(
  options: Options,
  part: Part,
  tensors: Readonly<Record<string, HostTensor>>,
  { shape, values }: HostTensor,
  site: Partial<Site> = {},
): Through {
  const held: Tensor[] = []
  const hold: Site['hold'] = (table) => {
    const made = tensor(table.values, [...table.shape])
    held.push(made)
    return made
  }
  const [heads = 0, n = 0, dim = 0] = shape
  const own = { ...siteOf(model, 0, part, hold), heads, dim, ...site }
  const quantizer = stageOf(options, part).stage.bind(own, artifactOf(part, tensors))
  const rows = tensor(values, [heads, n, dim])
  const back = tidy(() => {
    const given = quantizer.mergedHeads ? reshape(transpose(rows, [1, 0, 2]), [1, n, heads * dim]) : rows
    const block = quantizer.encode(given)
    const decoded = reshape(quantizer.decode(block, n), [n, heads, dim])
    const shapes = Object.fromEntries(Object.entries(block).map(([name, t]) => [name, t.shape]))
    return { values: transpose(decoded, [1, 0, 2]).dataSync<'float32'>().slice(), shapes }
  })
  dispose([rows, ...held])
  return { back: back.values, shapes: back.shapes, quantizer }
}

const error = (x: ArrayLike<number>, y: ArrayLike<number>): number => {
  let [difference, square] = [0, 0]
  for (let i = 0; i < x.length; i++) {
    difference += ((x[i] ?? 0) - (y[i] ?? Number.NaN)) ** 2
    square += (x[i] ?? 0) ** 2
  }
  return difference / square
}
const half = (x: number): number => floatFromHalf(halfFromFloat(x))
const NONE: Options = { sensitivity: 'none' }

beforeAll(async () => {
  await registerKernels('wasm')
  await setBackend('wasm')
})

describe('splitting', () => {
  it('finds as many value outliers as lie at the interpolated quantiles or beyond', () => {
    expect(outliersPerEnd(192, 0.99)).toBe(1)
    expect(outliersPerEnd(1024, 0.99)).toBe(6)
    expect(outliersPerEnd(201, 0.99)).toBe(2)
    expect(outliersPerEnd(192, 1)).toBe(0)
    expect(outliersPerEnd(1, 0.5)).toBe(0)
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 300 }), fc.double({ min: 0.5, max: 0.999, noNaN: true }), (n, dense) => {
        const row = gaussian(n, [1, 1, n]).values
        const sorted = row.slice().sort()
        const { outliers, offset, range } = denseValues(row, outliersPerEnd(n, dense))
        const share = 1 - (1 - dense) / 2
        const [low, high] = [quantileOf(sorted, 1 - share), quantileOf(sorted, share)]
        const outside = [...row.keys()].filter((i) => (row[i] ?? 0) <= low || (row[i] ?? 0) >= high)
        // A quantile that is a number of the row may be rounded to either side of it.
        expect(Math.abs(outside.length - outliers.length)).toBeLessThanOrEqual(2)
        for (const [i, x] of row.entries())
          if (!outliers.includes(i)) expect(Math.abs(normalized(x, offset, range))).toBeLessThanOrEqual(1 + 1e-6)
      }),
      { numRuns: 60 },
    )
  })

  it('takes equal numbers, and those beyond a bound before those at it', () => {
    expect(denseValues(Float32Array.of(5, 5, 5, 5), 1)).toEqual({ offset: 5, range: 0, outliers: [0, 1] })
    expect(denseValues(Float32Array.of(1, 3, 2, 3, 9), 2).outliers).toEqual([0, 1, 2, 4])
    expect(denseValues(Float32Array.of(2, 1), 1)).toEqual({ offset: 1, range: 0, outliers: [0, 1] })
    expect(denseValues(Float32Array.of(7), 0)).toEqual({ offset: 7, range: 0, outliers: [] })
    expect(normalized(1, 0, 1e-38)).toBe(4)
    expect(normalized(-3, 0, 0)).toBe(0)
  })

  it('gives the room of key outliers to those that are farthest outside', () => {
    const ranges = {
      lower: new Float32Array(4).fill(-1),
      upper: new Float32Array(4).fill(1),
      offset: new Float32Array(4),
      range: new Float32Array(4).fill(1),
    }
    const row = Float32Array.of(5, 1, -9, 3)
    expect(keyOutliers(row, ranges, 4)).toEqual([0, 2, 3])
    expect(keyOutliers(row, ranges, 2)).toEqual([0, 2])
    expect(keyOutliers(row, ranges, 0)).toEqual([])
    // The bounds themselves are inside.
    expect(keyOutliers(Float32Array.of(1, -1, 1.0001, -1.0001), ranges, 4)).toEqual([2, 3])
  })
})

describe('learning', () => {
  it.each([
    // Spec of the method: squared error relative to the variance, keys of independent normal channels.
    [2, 1, 0.124],
    [2, 0.99, 0.0965],
    [3, 1, 0.0365],
    [3, 0.99, 0.0263],
    [4, 1, 0.0099],
    [4, 0.99, 0.0068],
  ])('reaches the known error on normal numbers: %i bits, %f of them dense', async (bits, dense, expected) => {
    const scale = (at: number) => 1 + (at % 16)
    const options: Options = { ...NONE, bits, dense, keyOutliers: 32, sinks: 0 }
    const rows = gaussian(1, [2, 4096, 16], scale)
    const { tensors } = await fitted(options, 'keys', [rows])
    const { back } = through(options, 'keys', tensors, rows)
    const unit = (x: Float32Array) => x.map((v, at) => v / scale(at))
    // Dense ranges are those of the largest of the rows, whose number the target does not say.
    expect(Math.abs(error(unit(rows.values), unit(back)) / expected - 1)).toBeLessThan(dense === 1 ? 0.15 : 0.05)
  })

  it('finds the asked share of outliers, inside which all numbers lie between -1 and 1', async () => {
    const rows = gaussian(2, [2, 2000, 16])
    const { json } = await fitted(NONE, 'keys', [rows])
    expect((json as { outliers: number }).outliers).toBeCloseTo(0.01, 3)
    const dense = await fitted({ ...NONE, dense: 1 }, 'keys', [rows])
    expect((dense.json as { outliers: number }).outliers).toBeLessThan(1e-3)
  })

  it('gives the same bytes for the same seed, and for tokens in one sequence or in two', async () => {
    const rows = gaussian(3, [1, 600, 16])
    const cut = (from: number, to: number): HostTensor => ({
      shape: [1, to - from, 16],
      values: rows.values.slice(from * 16, to * 16),
    })
    const options: Options = { ...NONE, sinks: 0, maxSamples: 100, seed: 5 }
    const one = await fitted(options, 'keys', [rows])
    expect(await fitted(options, 'keys', [cut(0, 250), cut(250, 600)])).toEqual(one)
    expect((await fitted({ ...options, seed: 6 }, 'keys', [rows])).tensors['signposts']).not.toEqual(
      one.tensors['signposts'],
    )
  })

  it('learns from bins what it learns from all numbers', async () => {
    const random = seededRandom(10)
    const x = Float32Array.from({ length: 40000 }, () => Math.max(-1, Math.min(1, random.gaussian() / 3)))
    const weights = x.map((v) => (v > 0 ? 2 : 1))
    const costOf = (signposts: ArrayLike<number>) =>
      x.reduce((sum, v, i) => sum + (weights[i] ?? 0) * (v - nearest(v, Float32Array.from(signposts))) ** 2, 0)
    const { centroids } = lloydMaxOfSamples(x, 8, { weights, seed: 3, restarts: 2 })
    const binned = learnSignposts({ x, weights, of: x.length }, { bits: 3, seed: 3 })
    expect(costOf(binned) / costOf(centroids)).toBeLessThan(1.005)
    // All in two bins: fewer than there are signposts.
    const few = x.map((v) => (v > 0 ? 0.5 : -0.5))
    const found = learnSignposts({ x: few, weights, of: x.length }, { bits: 3, seed: 3 })
    expect([...new Set(found)].sort()).toEqual([-0.5, 0.5])
  })

  it('weighs numbers by their squared gradients, and leaves sinks out', async () => {
    const rows = gaussian(4, [1, 800, 16])
    // Only numbers above 0 matter: all signposts but few go there.
    const squares = { ...rows, values: rows.values.map((x) => (x > 0 ? 1 : 1e-6)) }
    const signposts = async (gradients?: readonly HostTensor[], options: Options = {}) =>
      (await fitted({ bits: 3, ...options }, 'keys', [rows], gradients)).tensors['signposts']?.values
    const weighed = [...((await signposts([squares])) ?? [])]
    const plain = [...((await signposts(undefined, NONE)) ?? [])]
    expect(weighed.filter((y) => y > 0).length).toBeGreaterThan(plain.filter((y) => y > 0).length)
    // A loss that depends on nothing weighs all alike.
    expect([...((await signposts([{ ...rows, values: new Float32Array(12800) }])) ?? [])]).toEqual(plain)
    const wild = { ...rows, values: rows.values.map((x, at) => (at < 32 ? x * 0.999 : x)) }
    const without = await fitted({ ...NONE, dense: 1, sinks: 2 }, 'values', [rows])
    expect((await fitted({ ...NONE, dense: 1, sinks: 2 }, 'values', [wild])).tensors).toEqual(without.tensors)
  })

  it('moves signposts by Q-Norm so that mean and deviation stay', () => {
    const x = gaussian(5, [1, 1, 4000]).values.map((v) => v / 4)
    const signposts = Float32Array.of(-0.6, -0.1, 0.2, 0.5)
    const after = moved(signposts, qNormOf(x, signposts))
    const read = x.map((v) => after[signposts.indexOf(nearest(v, signposts))] ?? Number.NaN)
    const moments = (y: Float32Array) => {
      const mean = y.reduce((a, b) => a + b, 0) / y.length
      return [mean, y.reduce((a, b) => a + (b - mean) ** 2, 0) / y.length] as const
    }
    const [before, now] = [moments(x), moments(read)]
    expect(now[0]).toBeCloseTo(before[0], 5)
    expect(now[1]).toBeCloseTo(before[1], 5)
    expect(qNormOf(new Float32Array(9), signposts)).toEqual({ scale: 1, offset: expect.closeTo(0.1, 6) })
  })

  it('makes room for 99 % of the calibration outliers, or as many as asked', async () => {
    const rows = gaussian(6, [2, 3000, 16])
    const roomOf = async (options: Options) => [
      ...((await fitted({ ...NONE, ...options }, 'keys', [rows])).tensors['room']?.values ?? []),
    ]
    // 32 numbers with 1 % outliers: 0.32 on average.
    const [all = 0, head = 0] = await roomOf({})
    expect(all).toBeGreaterThanOrEqual(head)
    expect([2, 3]).toContain(all)
    expect(await roomOf({ keyOutliers: 20 })).toEqual([20, 16])
    expect(await roomOf({ dense: 1 })).toEqual([0, 0])
  })

  it('says why it cannot be fitted', async () => {
    const rows = gaussian(7, [2, 20, 16])
    await expect(fitted({}, 'keys', [rows])).rejects.toThrow(CalibrationError)
    await expect(fitted({}, 'keys', [rows])).rejects.toThrow(/Use sensitivity "none"/)
    await expect(fitted({}, 'keys', [rows], [gaussian(8, [2, 10, 16])])).rejects.toThrow(/differ in shape/)
    await expect(fitted({ ...NONE, bits: 8 }, 'keys', [gaussian(9, [1, 3, 16])])).rejects.toThrow(/256 signposts/)
    await expect(fitted(NONE, 'keys', [])).rejects.toThrow(/no calibration tokens/)
    rows.values.fill(Number.NaN, 5, 6)
    await expect(fitted(NONE, 'values', [rows])).rejects.toThrow(/not finite/)
  })
})

describe('kvquant', () => {
  const rows = gaussian(20, [2, 300, 16], (at) => 1 + (at % 5))

  it('gives outliers back as the halves that a cache holds, and numbers within a range to half a step', async () => {
    for (const part of ['keys', 'values'] as const) {
      const options: Options = { ...NONE, bits: 8, dense: 0.5, keyOutliers: 32 }
      const { tensors } = await fitted(options, part, [rows])
      const { back } = through(options, part, tensors, rows)
      const exact = [...back.keys()].filter((at) => back[at] === half(rows.values[at] ?? 0)).length
      // 8 of 16 numbers a token and head, or channel.
      expect(exact / back.length).toBeGreaterThan(0.45)
      expect(error(rows.values, back)).toBeLessThan(1e-3)
    }
  })

  it('gives everything back where all numbers are outliers', async () => {
    const options: Options = { ...NONE, dense: 1e-6, keyOutliers: 32, metadata: 'f32' }
    for (const part of ['keys', 'values'] as const) {
      const { tensors } = await fitted({ ...options, dense: 0.99 }, part, [rows])
      const none = new Float32Array(32)
      const ranges =
        part === 'keys'
          ? { lower: { shape: [2, 16], values: none.fill(0) }, upper: { shape: [2, 16], values: none } }
          : {}
      expect(through(options, part, { ...tensors, ...ranges }, rows).back).toEqual(rows.values)
    }
  })

  it('takes constant rows, rows of zeros and channels that never change', async () => {
    for (const value of [0, 1.5, -60000]) {
      const flat = { shape: [2, 40, 16], values: new Float32Array(1280).fill(value) }
      for (const part of ['keys', 'values'] as const) {
        const { tensors } = await fitted(NONE, part, [flat])
        expect(through(NONE, part, tensors, flat).back).toEqual(flat.values.map(half))
        // Other rows than those of the calibration: values have ranges of their own, keys what there is room for.
        const { back } = through(NONE, part, tensors, rows)
        expect(back.every(Number.isFinite)).toBe(true)
      }
    }
    const { tensors } = await fitted(NONE, 'keys', [rows])
    const zero = { shape: [2, 3, 16], values: new Float32Array(96) }
    expect(
      error(
        new Float32Array(96).fill(1),
        through(NONE, 'keys', tensors, zero).back.map((v) => v + 1),
      ),
    ).toBeLessThan(0.5)
    const values = await fitted(NONE, 'values', [rows])
    expect(through(NONE, 'values', values.tensors, zero).back).toEqual(zero.values)
  })

  it('quantizes keys that find no room to the end of their channel', async () => {
    const { tensors } = await fitted({ ...NONE, keyOutliers: 2 }, 'keys', [rows])
    const far = { shape: [2, 1, 16], values: new Float32Array(32).fill(0) }
    far.values.set([900, 0, -800, 0, 700])
    const { back } = through(NONE, 'keys', tensors, far)
    expect([back[0], back[2]]).toEqual([900, -800])
    const upper = tensors['upper']?.values[4] ?? Number.NaN
    expect(back[4]).toBeGreaterThan(0)
    expect(back[4]).toBeLessThanOrEqual(upper * 1.001)
  })

  it('packs a row the same whatever rows stand beside it', async () => {
    for (const part of ['keys', 'values'] as const) {
      const { tensors } = await fitted(NONE, part, [rows])
      const { back } = through(NONE, part, tensors, rows)
      for (const row of [0, 7, 299]) {
        const alone = new Float32Array(32)
        for (const head of [0, 1])
          alone.set(rows.values.subarray((head * 300 + row) * 16, (head * 300 + row + 1) * 16), head * 16)
        const own = through(NONE, part, tensors, { shape: [2, 1, 16], values: alone }).back
        for (const head of [0, 1])
          expect(own.slice(head * 16, head * 16 + 16)).toEqual(
            back.slice((head * 300 + row) * 16, (head * 300 + row + 1) * 16),
          )
      }
    }
  })

  it('binds a head alone with the ranges of its channels', async () => {
    const { tensors } = await fitted({ ...NONE, keyOutliers: 16 }, 'keys', [rows])
    const whole = through(NONE, 'keys', tensors, rows).back
    const second = { shape: [1, 300, 16], values: rows.values.slice(300 * 16) }
    const alone = through(NONE, 'keys', tensors, second, { firstHead: 1, heads: 1 })
    expect(alone.quantizer.mergedHeads).toBe(undefined)
    expect(alone.back).toEqual(whole.slice(300 * 16))
  })

  it('holds what the bits say', async () => {
    const keys = (await fitted({ ...NONE, keyOutliers: 5 }, 'keys', [rows])).tensors
    const values = (await fitted(NONE, 'values', [rows])).tensors
    const dense = (await fitted({ ...NONE, dense: 1 }, 'keys', [rows])).tensors
    const bitsOf = (t: Through) => t.quantizer.theoreticalBitsPerValue
    const k = through(NONE, 'keys', keys, rows)
    // 32 codes of 3 bits, five halves, five bytes.
    expect(k.shapes).toEqual({ codes: [1, 300, 3], outliers: [1, 300, 3], places: [1, 300, 2] })
    expect(bitsOf(k)).toBe(3 + (5 * 24) / 32)
    const v = through(NONE, 'values', values, rows)
    expect(v.shapes).toEqual({ codes: [1, 300, 3], metadata: [1, 300, 1], outliers: [1, 300, 1], places: [1, 300, 1] })
    expect(bitsOf(v)).toBe(3 + (32 + 2 * 24) / 32)
    const d = through({ ...NONE, dense: 1 }, 'keys', dense, rows)
    expect(d.shapes).toEqual({ codes: [1, 300, 3] })
    expect(d.quantizer.layout).toMatchObject({ kind: 'codebook', vector: 1, entries: 8, scale: 'channel' })
    expect(v.quantizer.layout).toMatchObject({ kind: 'codebook', scale: 'row', outliers: 2 })
    expect(bitsOf(d)).toBe(3)
    // From 256 channels on a place takes two bytes.
    const wide = gaussian(21, [2, 12, 160])
    const learnedOf = await fitted(NONE, 'values', [wide])
    const w = through(NONE, 'values', learnedOf.tensors, wide)
    expect(w.shapes['places']).toEqual([1, 12, 2])
    expect(error(wide.values, w.back)).toBeLessThan(0.1)
  })

  it('runs in a cache: calibrated, keys before RoPE, the first token exact, bytes given back', async () => {
    const before = memory().numBytes
    const compressor = kvquant({ bits: 4 })
    const calibrated = await calibrate(compressor, syntheticRun(model))
    const cache = openCache(model, calibrated)
    for (const [tokens, sealed] of [
      [1, 0],
      [40, 40],
      [3, 43],
    ] as const) {
      cache.begin(new Int32Array(tokens), 'promptEnd')
      for (let layer = 0; layer < model.layers; layer++) {
        const { values } = gaussian(30 + tokens + layer, [2, tokens, 16])
        const x = tensor(values, [2, tokens, 16])
        dispose([await cache.attend(layer, { queries: x, keys: x, values: x }), x])
      }
      await cache.commit()
      expect(cache.census(0)).toMatchObject({ keys: { exact: 1, sealed }, values: { exact: 1, sealed }, dead: 0 })
    }
    expect(cache.bytes().metadata).toBeGreaterThan(0)
    cache.dispose()
    expect(memory().numBytes).toBe(before)
  })

  it('refuses numbers beyond its halves by their limit', async () => {
    const compressor = window({ store: 'f32' }, kvquant())
    const cache = openCache(model, await calibrate(compressor, syntheticRun(model)))
    const row = fill([2, 3, 16], 1e5)
    cache.begin(new Int32Array(3), 'promptEnd')
    try {
      await expect(cache.attend(0, { queries: row, keys: row, values: row })).rejects.toThrow(
        /the most that the metadata of kvquant holds.*metadata: 'f32' holds larger numbers/,
      )
    } finally {
      row.dispose()
      cache.dispose()
    }
    const { tensors } = await fitted({ ...NONE, metadata: 'f32' }, 'values', [rows])
    const huge = { shape: [2, 2, 16], values: new Float32Array(64).map((_, at) => (at % 2 ? 1.7e38 : -1.7e38)) }
    expect(through({ ...NONE, metadata: 'f32' }, 'values', tensors, huge).back.every(Number.isFinite)).toBe(true)
  })

  it('refuses what does not fit', async () => {
    expect(() => kvquant({ bits: 9 })).toThrow(OptionError)
    expect(() => kvquant({ dense: 0 })).toThrow(OptionError)
    expect(() => kvquant({ keyOutliers: 0 })).toThrow(OptionError)
    const { tensors } = await fitted(NONE, 'keys', [rows])
    const bind = (options: Options, site: Partial<Site> = {}, given = tensors) =>
      stageOf(options, 'keys').stage.bind({ ...siteOf(model, 0, 'keys'), ...site }, artifactOf('keys', given))
    expect(() => bind({ ...NONE, bits: 4 })).toThrow(ArtifactMismatch)
    expect(() => bind(NONE, { dim: 8 })).toThrow(ArtifactMismatch)
    expect(() => bind(NONE, { heads: 3 })).toThrow(ArtifactMismatch)
    expect(() => bind(NONE, { layer: 1 })).toThrow(/no signposts for the keys of layer 1/)
    expect(() => bind(NONE, { dim: 40000 })).toThrow(ModelMismatch)
    const whole = { ...tensors, lower: { shape: [2, 16], values: new Int32Array(32) } }
    expect(() => bind(NONE, {}, whole)).toThrow(/whole numbers/)
  })
})
