import { shapesOf, syntheticModel, syntheticRun, testCompressor } from '@kvloom/conformance'
import {
  ArtifactMismatch,
  CalibrationError,
  type CalibrationRun,
  calibrate,
  compose,
  defineQuantizer,
  defineScorer,
  type HostTensor,
  IncompatibleStages,
  ModelMismatch,
  NonFiniteError,
  OptionError,
  openCache,
  type Part,
  type Ready,
  siteOf,
  stagesOn,
  upload,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { matrix, multiply, seededRandom, transpose } from '@kvloom/math'
import { dispose, memory, setBackend, type Tensor, zeros } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { groupHeads, slotsOf } from './grouping'
import { fisherRanks } from './ranks'
import { recalkv } from './recalkv'
import { headSimilarity } from './similarity'
import { calibrated, covarianceOf, principalMaps } from './values'

type Options = NonNullable<Parameters<typeof recalkv>[0]>

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })

const small = { backends: ['wasm'], shapes: shapesOf(3).slice(0, 1) } as const
testCompressor(runner, {
  name: 'recalkv',
  make: () => recalkv({ block: 8 }),
  identity: () => window({ store: 'f32' }, recalkv({ keep: 1 })),
  ...small,
  decode: 40,
})
testCompressor(runner, {
  name: 'recalkv, almost nothing of each head alone',
  make: () => recalkv({ keep: 0.01, block: 1, headsPerGroup: 1, allocation: 'uniform', iterations: 0 }),
  ...small,
})

/** Two layers, four KV heads: 0 and 2 are alike, and 1 and 3. */
const model = syntheticModel({ queryHeads: 8, kvHeads: 4, keyDim: 12, valueDim: 8 })
const TOKENS = 60
/** float32 products of a few dozen terms. */
const ROUNDING = 1e-5

/** Rows of which heads two apart share three directions. */
function rowsOf(layer: number, part: Part, seed = 0): HostTensor {
  const dim = part === 'keys' ? model.keyDim : model.valueDim
  const mixes = seededRandom(31 * layer + (part === 'keys' ? 1 : 2))
  const random = seededRandom(100 + seed + layer)
  const mix = [0, 1].map(() => mixes.gaussians(3 * 2 * dim))
  const values = new Float32Array(model.kvHeads * TOKENS * dim)
  for (let t = 0; t < TOKENS; t++)
    for (const pair of [0, 1]) {
      const latent = random.gaussians(3)
      for (let c = 0; c < 2 * dim; c++) {
        const head = pair + 2 * Math.floor(c / dim)
        values[(head * TOKENS + t) * dim + (c % dim)] = latent.reduce(
          (sum, z, i) => sum + z * (mix[pair]?.[i * 2 * dim + c] ?? 0),
          0,
        )
      }
    }
  return { shape: [model.kvHeads, TOKENS, dim], values }
}

function runOf(change: (rows: HostTensor) => readonly HostTensor[] = (rows) => [rows]): CalibrationRun {
  const refuse = async (): Promise<never> => {
    throw new Error('not asked for')
  }
  const parts = async (layer: number, seed = 0) => ({
    keys: change(rowsOf(layer, 'keys', seed)),
    values: change(rowsOf(layer, 'values', seed)),
  })
  return {
    model,
    weights: { shape: model, names: () => [], get: refuse },
    rows: (layer) => parts(layer),
    shifted: (layer) => parts(layer, 50),
    gradients: refuse,
    hidden: refuse,
    sentences: refuse,
  }
}

const uniform = (options: Options) => window({ store: 'f32' }, recalkv({ allocation: 'uniform', block: 1, ...options }))

/** Fisher information of weights of one row each. */
const fisherBy = (names: readonly string[], valuesOf: (name: string) => readonly number[]) =>
  Object.fromEntries(
    names.map((name) => {
      const values = Float32Array.from(valuesOf(name))
      return [name, { shape: [1, values.length], values }]
    }),
  )

/** What a cache of one prompt holds of a layer's rows, and how many numbers. */
async function held(fitted: Ready, layer: number): Promise<Readonly<Record<Part, Float32Array>> & { payload: number }> {
  const cache = openCache(model, fitted)
  cache.begin(new Int32Array(TOKENS), 'promptEnd')
  for (let l = 0; l < model.layers; l++) {
    const now = { keys: upload(rowsOf(l, 'keys')), values: upload(rowsOf(l, 'values')) }
    const queries = zeros([model.queryHeads, TOKENS, model.keyDim])
    const output = await cache.attend(l, { queries, ...now })
    dispose([queries, output, now.keys, now.values])
  }
  await cache.commit()
  const { keys, values } = await cache.materialize(layer)
  const result = {
    keys: (await keys.data()).slice() as Float32Array,
    values: (await values.data()).slice() as Float32Array,
    payload: cache.bytes().payload,
  }
  dispose([keys, values])
  cache.dispose()
  return result
}

const distance = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Math.hypot(...Array.from(a, (x, i) => x - (b[i] ?? Number.NaN)))
const norm = (a: ArrayLike<number>): number => Math.hypot(...Array.from(a))

describe('recalkv', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('groups heads that are alike, also where they do not stand side by side, and keeps them in few numbers', async () => {
    const fitted = await calibrate(uniform({ keep: 0.25, headsPerGroup: 2 }), runOf())
    const [artifact] = fitted.artifacts
    const json = artifact?.json as { 'model.both'?: { groups: number[][][] } } | undefined
    const groups = json?.['model.both']?.groups ?? []
    expect(groups).toHaveLength(2)
    for (const own of groups) expect(own.map((heads) => heads.join()).sort()).toEqual(['0,2', '1,3'])
    const { keys, values, payload } = await held(fitted, 1)
    const exact = await held(await calibrate(uniform({ keep: 1 }), runOf()), 1)
    expect(distance(keys, exact.keys)).toBeLessThan(ROUNDING * norm(exact.keys))
    expect(distance(values, exact.values)).toBeLessThan(ROUNDING * norm(exact.values))
    expect(payload).toBe(model.layers * TOKENS * (2 * 6 + 2 * 4) * 4)
  })

  it('is exact when everything is kept', async () => {
    const { values } = await held(await calibrate(uniform({ keep: 1 }), runOf()), 0)
    const rows = rowsOf(0, 'values').values
    expect(distance(values, rows)).toBeLessThan(ROUNDING * norm(rows))
  })

  it('shows every layer the rows that the layers before it keep', async () => {
    const seen: string[] = []
    const run: CalibrationRun = {
      ...runOf(),
      shifted: async (layer, replace) => {
        if (layer > 0) {
          const rows = { keys: rowsOf(layer - 1, 'keys', 9), values: rowsOf(layer - 1, 'values', 9) }
          const given = replace(layer - 1, rows)
          for (const part of ['keys', 'values'] as const) {
            expect(given[part].shape).toEqual(rows[part].shape)
            // Keys keep all of their directions, and values two of three per group of heads.
            const error = distance(given[part].values, rows[part].values) / norm(rows[part].values)
            if (part === 'keys') expect(error).toBeLessThan(ROUNDING)
            else expect(error).toBeGreaterThan(0.05)
          }
          seen.push(`${layer - 1}`)
        }
        return runOf().rows(layer)
      },
    }
    await calibrate(uniform({ keep: 0.125, headsPerGroup: 2 }), run)
    expect(seen).toEqual(['0'])
  })

  it('shares ranks by the mean root of what weights have of the token after the next, all weights asked for at once', async () => {
    const asked: unknown[] = []
    // Mean roots are 1, 3, 1 and 3; roots of means would be √2, √18, 1 and 3.
    const values: Readonly<Record<string, readonly number[]>> = {
      'layers.0.attention.key': [0, 4],
      'layers.0.attention.value': [0, 36],
      'layers.1.attention.key': [1, 1],
      'layers.1.attention.value': [9, 9],
    }
    const run: CalibrationRun = {
      ...runOf(),
      weightFisher: async (names, wish) => {
        asked.push([[...names].sort(), wish])
        return fisherBy(names, (name) => values[name] ?? [])
      },
    }
    const fitted = await calibrate(recalkv({ keep: 0.25, headsPerGroup: 2, block: 1, fisherTokens: 256 }), run)
    expect(asked).toEqual([[Object.keys(values).sort(), { ahead: 2, tokens: 256 }]])
    // A quarter of 2 · (48 + 32) is 40, in shares of 1 : 3; two groups each.
    const json = fitted.artifacts[0]?.json as
      | { 'model.both'?: { keyRanks: number[]; valueRanks: number[] } }
      | undefined
    expect(json?.['model.both']).toMatchObject({ keyRanks: [2, 2], valueRanks: [7, 7] })
    for (const [part, rank] of [
      ['keys', 4],
      ['values', 14],
    ] as const)
      expect(fitted.artifacts[0]?.tensors[`1.${part}.down`]?.shape[1]).toBe(rank)
  })

  it('rounds its ranks to what a quantizer behind it takes, and is refused before it is fitted where none is that', async () => {
    const packs = (multipleOf: number) =>
      defineQuantizer({
        name: 'packs',
        options: {},
        channels: () => ({ multipleOf, of: 'head' }),
        quantizer: () => ({
          layout: { kind: 'custom', fields: { rows: { counts: 'payload' } } },
          theoreticalBitsPerValue: 32,
          rowsPerGroup: 1,
          encode: (rows: Tensor) => ({ rows: rows.clone() }),
          decode: ({ rows }: { readonly rows: Tensor }) => rows,
        }),
      })()
    const fitted = await calibrate(compose(uniform({ keep: 0.3, headsPerGroup: 2 }), packs(4)), runOf())
    // 0.3 of 24 and of 16 channels are 7 and 5; two groups of 8 and of 4.
    expect(fitted.artifacts[0]?.tensors['1.keys.down']?.shape).toEqual([1, 16, 48])
    expect(fitted.artifacts[0]?.tensors['1.values.up']?.shape).toEqual([1, 8, 32])
    const nothing = { ...runOf(), rows: () => Promise.reject(new Error('fitted')) }
    await expect(calibrate(compose(uniform({ headsPerGroup: 2 }), packs(17)), nothing)).rejects.toThrow(
      /recalkv does not fit this model: what stands behind it takes multiples of 17 channels of values/,
    )
  })

  it('proposes to hold nothing exact, before RoPE, also of its own step', () => {
    const { stages, window, ownRows } = recalkv()
    expect(stages.map((s) => s.on?.part)).toEqual([undefined])
    expect(window?.values).toEqual({ recent: 0, block: 1, drain: 'all' })
    expect(ownRows).toBe('stored')
  })

  it('refuses what does not fit', async () => {
    for (const options of [
      { keep: 0 },
      { keep: 1.5 },
      { headsPerGroup: 0 },
      { block: 0 },
      { iterations: -1 },
      { fisherTokens: 2 },
    ] as const)
      expect(() => recalkv(options), JSON.stringify(options)).toThrow(OptionError)
    await expect(calibrate(uniform({ headsPerGroup: 3 }), runOf())).rejects.toThrow(ModelMismatch)
    const [stage] = stagesOn(recalkv(), 'transform', 0, 'keys')
    expect(() => stage?.bind(siteOf(model, 0, 'keys'))).toThrow(ArtifactMismatch)
    const [artifact] = (await calibrate(uniform({}), runOf())).artifacts
    const wider = syntheticModel({ queryHeads: 8, kvHeads: 4, keyDim: 16, valueDim: 8 })
    expect(() => stage?.bind(siteOf(wider, 0, 'keys'), artifact)).toThrow(ArtifactMismatch)
    const perHead = defineScorer({ name: 'per-head', needs: {}, score: () => zeros([2, 1]) })
    expect(() => compose(perHead(), recalkv())).toThrow(IncompatibleStages)
  })

  it('cannot be fitted on nothing, on numbers that are none, or by an engine that does not run compressed layers', async () => {
    await expect(
      calibrate(
        uniform({}),
        runOf(() => []),
      ),
    ).rejects.toThrow(CalibrationError)
    const nan = runOf(({ shape, values }) => [
      { shape, values: Float32Array.from(values, (x, i) => (i ? x : Number.NaN)) },
    ])
    await expect(calibrate(uniform({}), nan)).rejects.toThrow(/some keys of layer 0 are not finite/)
    const { shifted: _, ...without } = runOf()
    await expect(calibrate(uniform({}), without)).rejects.toThrow(/recalkv\(\{ iterations: 0 \}\)/)
    await calibrate(uniform({ iterations: 0 }), without)
    await expect(calibrate(recalkv(), runOf())).rejects.toThrow(/recalkv\(\{ allocation: 'uniform' \}\)/)
    // Nothing is known of a weight, some of it is not finite, some is below 0.
    for (const values of [[], [1, Number.NaN], [Number.POSITIVE_INFINITY], [-1]])
      await expect(
        calibrate(recalkv(), {
          ...runOf(),
          weightFisher: async (names) => fisherBy(names, (name) => (name.endsWith('1.attention.value') ? values : [1])),
        }),
        `${values}`,
      ).rejects.toThrow(/the Fisher information of attention.value of layer 1 is no finite number/)
  })

  it('refuses a step with NaN, and leaves no tensors', async () => {
    const before = memory().numTensors
    const cache = openCache(model, await calibrate(recalkv({ block: 4 }), syntheticRun(model)))
    cache.begin(new Int32Array(1), 'promptEnd')
    const bad = upload({ shape: [4, 1, 12], values: new Float32Array(48).fill(Number.NaN) })
    const [good, queries] = [zeros([4, 1, 8]), zeros([8, 1, 12])]
    await expect(cache.attend(0, { queries, keys: bad, values: good })).rejects.toThrow(NonFiniteError)
    dispose([bad, good, queries])
    cache.dispose()
    expect(memory().numTensors).toBe(before)
  })
})

describe('groups of heads', () => {
  it('hold every head once, and all as many', () => {
    const shapes = fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 5 }), fc.integer())
    fc.assert(
      fc.property(shapes, ([count, size, seed]) => {
        const heads = count * size
        const rows = matrix(7, heads * 2, seededRandom(seed).gaussians(7 * heads * 2))
        const groups = groupHeads(headSimilarity(rows, heads), size)
        expect(groups.map((g) => g.length)).toEqual(new Array(count).fill(size))
        expect([...groups.flat()].sort((a, b) => a - b)).toEqual(Array.from({ length: heads }, (_, h) => h))
        expect([...slotsOf(groups)].map((slot) => groups.flat()[slot])).toEqual(
          Array.from({ length: heads }, (_, h) => h),
        )
      }),
    )
  })

  it('are those of heads that are the same up to a rotation, and like nothing that never changes', () => {
    const random = seededRandom(3)
    const one = matrix(20, 2, random.gaussians(40))
    const turned = multiply(one, matrix(2, 2, [0.6, 0.8, -0.8, 0.6]))
    const features = matrix(20, 6)
    for (let t = 0; t < 20; t++)
      for (let c = 0; c < 2; c++) {
        features.data[t * 6 + c] = one.data[t * 2 + c] ?? 0
        features.data[t * 6 + 2 + c] = 5
        features.data[t * 6 + 4 + c] = (turned.data[t * 2 + c] ?? 0) + 9
      }
    const { data } = headSimilarity(features, 3)
    expect(data[2]).toBeCloseTo(1, 10)
    expect([...data.subarray(3, 6)]).toEqual([0, 0, 0])
  })
})

describe('ranks by Fisher information', () => {
  it('are in proportion, within the width, and as many as the budget', () => {
    const fisher = fc.array(
      fc.tuple(fc.double({ min: 0, max: 9, noNaN: true }), fc.double({ min: 0, max: 9, noNaN: true })),
      {
        minLength: 1,
        maxLength: 12,
      },
    )
    fc.assert(
      fc.property(fisher, fc.integer({ min: 1, max: 8 }), (pairs, eighths) => {
        const { raw } = fisherRanks(
          { keys: pairs.map(([k]) => k), values: pairs.map(([, v]) => v) },
          { keep: eighths / 8, width: { keys: 64, values: 64 }, groups: 1, block: 1 },
        )
        const all = [...raw.keys, ...raw.values]
        expect(Math.max(...all)).toBeLessThanOrEqual(64)
        expect(all.reduce((a, b) => a + b, 0)).toBe(pairs.length * 128 * (eighths / 8))
      }),
    )
  })

  it('are the same for all where nothing is known', () => {
    const width = { keys: 64, values: 32 }
    const { ranks } = fisherRanks({ keys: [0, 0], values: [0, 0] }, { keep: 0.5, width, groups: 2, block: 4 })
    expect([...ranks.keys, ...ranks.values]).toEqual([16, 16, 8, 8])
  })
})

describe('value calibration', () => {
  const rows = (seed: number, tilt: number) => {
    const random = seededRandom(seed)
    const data = random.gaussians(200 * 6).map((x, at) => x * (1 + ((at * tilt) % 6)))
    return matrix(200, 6, data)
  }
  const error = (maps: ReturnType<typeof principalMaps>, of: ReturnType<typeof rows>) => {
    const back = multiply(multiply(of, transpose(maps.down)), transpose(maps.up))
    return distance(back.data, of.data) / norm(of.data)
  }

  it('changes nothing on the rows that the maps come from, and helps on others', () => {
    const [dense, shifted] = [rows(1, 1), rows(2, 5)]
    const first = principalMaps(covarianceOf(dense), 3)
    const same = calibrated(first, covarianceOf(dense))
    expect(error(same, dense)).toBeCloseTo(error(first, dense), 10)
    expect(error(calibrated(first, covarianceOf(shifted)), shifted)).toBeLessThan(error(first, shifted))
  })

  it('stands rows that need fewer directions than they get', () => {
    const flat = multiply(rows(3, 1), matrix(6, 6, new Float64Array(36).fill(1)))
    const maps = calibrated(principalMaps(covarianceOf(rows(4, 1)), 4), covarianceOf(flat))
    expect(error(maps, flat)).toBeLessThan(1e-6)
  })
})
