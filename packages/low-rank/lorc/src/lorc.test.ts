import { shapesOf, syntheticModel, testCompressor } from '@kvloom/conformance'
import {
  ArtifactMismatch,
  type CalibrationRun,
  calibrate,
  compose,
  defineQuantizer,
  defineScorer,
  type HostTensor,
  IncompatibleStages,
  type KVCompressor,
  ModelMismatch,
  NonFiniteError,
  OptionError,
  openCache,
  type Part,
  type Ready,
  ready,
  siteOf,
  stagesOn,
  upload,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels, splitHeads } from '@kvloom/kernels'
import { matrix, multiply, seededRandom, transpose } from '@kvloom/math'
import {
  add,
  dispose,
  matMul,
  memory,
  randomNormal,
  reshape,
  setBackend,
  slice,
  type Tensor,
  tensor,
  tidy,
  zeros,
} from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { lorc } from './lorc'
import { progressiveRanks, rangeOfMean } from './ranks'

type Options = NonNullable<Parameters<typeof lorc>[0]>

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })

const small = { backends: ['wasm'], shapes: shapesOf(3).slice(0, 2) } as const
testCompressor(runner, {
  name: 'lorc, fitted on weights',
  make: () => lorc({ rank: 24 }),
  ...small,
  decode: 40,
})
testCompressor(runner, {
  name: 'lorc, keys more',
  make: () => lorc({ keyRank: 40, valueRank: 16, allocation: 'uniform' }),
  identity: () => window({ store: 'f32' }, lorc({ rank: 64, allocation: 'uniform' })), // 2 KV heads of 32
  ...small,
  shapes: small.shapes.slice(0, 1),
})
testCompressor(runner, {
  name: 'lorc, fitted on rows, values alone',
  make: () => lorc({ rank: 20, basis: 'outputs', allocation: 'uniform', parts: 'values' }),
  ...small,
  decode: 40,
})

/** Two layers, two KV heads; keys and values 24 and 16 wide in all, from 40 hidden channels. */
const model = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 12, valueDim: 8 })
const WIDE = 40
const TOKENS = 30
/** float32 products of a few dozen terms. */
const ROUNDING = 1e-5

interface World {
  readonly bias?: number
  /** Channels of the inputs. */
  readonly hidden?: number
  /** Keys are RMS-normed per head, as Qwen3's are. */
  readonly normed?: boolean
}

/** A model's projections, what they give for random inputs, and how to ask them. */
function world({ bias = 0, hidden = WIDE, normed = false }: World = {}) {
  const random = seededRandom(5)
  const gaussian = (rows: number, columns: number) => matrix(rows, columns, random.gaussians(rows * columns))
  const x = gaussian(TOKENS, hidden)
  const layers = Array.from({ length: model.layers }, () => {
    const of = (dim: number) => {
      const width = model.kvHeads * dim
      // Column scales give the weights a falling spectrum.
      const weight = gaussian(width, hidden)
      weight.data.forEach((w, at) => {
        weight.data[at] = Math.fround((w * 0.9 ** Math.floor(at / hidden)) / 8)
      })
      const offset = Float32Array.from({ length: width }, (_, i) => bias * (1 + (i % 3)))
      return { width, dim, weight, offset, linear: multiply(x, transpose(weight)) }
    }
    return { keys: of(model.keyDim), values: of(model.valueDim) }
  })
  const rowsOf = (layer: number, part: Part): HostTensor => {
    const { linear, offset, dim, width } = layers[layer]![part]
    const values = new Float32Array(TOKENS * width)
    for (let head = 0; head < model.kvHeads; head++)
      for (let t = 0; t < TOKENS; t++)
        for (let c = 0; c < dim; c++) {
          const column = head * dim + c
          values[(head * TOKENS + t) * dim + c] = linear.data[t * width + column]! + offset[column]!
        }
    if (normed && part === 'keys') normRows(values, dim)
    return { shape: [model.kvHeads, TOKENS, dim], values }
  }
  const refuse = async (): Promise<never> => {
    throw new Error('not asked for')
  }
  const run: CalibrationRun = {
    model,
    weights: {
      shape: model,
      names: () =>
        layers.flatMap((_, l) =>
          ['key', 'value'].flatMap((p) => [
            `layers.${l}.attention.${p}`,
            ...(bias ? [`layers.${l}.attention.${p}.bias`] : []),
            ...(normed && p === 'key' ? [`layers.${l}.attention.keyNorm`] : []),
          ]),
        ),
      async get(name) {
        const [, layer, which, offset] = /^layers\.(\d+)\.attention\.(key|value)(\.bias)?$/.exec(name) ?? []
        const found = layers[Number(layer)]?.[which === 'key' ? 'keys' : 'values']
        if (!found) throw new Error(`no weight ${name}`)
        return offset
          ? tensor(found.offset.slice(), [found.width])
          : tensor(Float32Array.from(found.weight.data), [found.width, hidden])
      },
    },
    rows: async (layer) => ({ keys: [rowsOf(layer, 'keys')], values: [rowsOf(layer, 'values')] }),
    gradients: refuse,
    hidden: refuse,
    sentences: refuse,
  }
  return { run, layers, rowsOf }
}

/** RMSNorm of every row, with weights that differ. */
function normRows(values: Float32Array, dim: number): void {
  for (let from = 0; from < values.length; from += dim) {
    const row = values.subarray(from, from + dim)
    const rms = Math.hypot(...row) / Math.sqrt(dim)
    row.forEach((x, c) => {
      row[c] = (x / rms) * (0.5 + (c % 5) / 4)
    })
  }
}

async function fitted(options: Options, given: Parameters<typeof world>[0] = {}) {
  const w = world(given)
  const artifactOf = async (part: Part) => {
    const [stage] = stagesOn(lorc(options), 'transform', 0, part)
    const [artifact] = (await calibrate(lorc(options), w.run)).artifacts
    if (!stage || !artifact) throw new Error('lorc is fitted on the model')
    return { stage, artifact }
  }
  /** Rows of a layer through latents and back `[heads, tokens, dim]`. */
  const through = async (
    layer: number,
    part: Part,
  ): Promise<{ rank: number; back: Float32Array; rows: Float32Array }> => {
    const { stage, artifact } = await artifactOf(part)
    const held: Tensor[] = []
    const hold = (table: HostTensor): Tensor => {
      const kept = upload(table)
      held.push(kept)
      return kept
    }
    const transform = stage.bind(siteOf(w.run.model, layer, part, hold), artifact)
    const rows = w.rowsOf(layer, part)
    const [heads = 0, n = 0, dim = 0] = rows.shape
    const decoded = tidy(() => {
      const { main } = transform.encode([upload(rows)], {})
      expect(main.shape).toEqual([1, n, transform.main.dim])
      const { up, bias } = transform.decoder({}, 0)
      if (!up) throw new Error('lorc decodes by a map')
      const split = splitHeads(reshape(matMul(main, up), [n, heads * dim]), heads)
      return bias ? add(split, bias) : split
    })
    const back = (await decoded.data()).slice() as Float32Array
    decoded.dispose()
    for (const x of held) x.dispose()
    return { rank: transform.main.dim, back, rows: rows.values as Float32Array }
  }
  return { ...w, artifactOf, through }
}

/** A quantizer that keeps rows as they are. */
const AS_IT_IS = {
  layout: { kind: 'custom', fields: { rows: { counts: 'payload' } } },
  theoreticalBitsPerValue: 32,
  encode: (rows: Tensor) => ({ rows: rows.clone() }),
  decode: ({ rows }: { readonly rows: Tensor }) => rows,
} as const

/** Keys and values at their full rank, 24 and 16. */
const FULL_RANK: Options = { keyRank: 24, valueRank: 16, allocation: 'uniform' }

const distance = (a: Float32Array, b: Float32Array): number => Math.hypot(...a.map((x, i) => x - (b[i] ?? Number.NaN)))

describe('lorc', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it.each<[string, number, 'f16' | 'f32', RegExp]>([
    [
      'its latents in f16',
      0,
      'f16',
      /the most that its store, f16, holds.* window\(\{ store: 'f32' \}, \.\.\.\) holds larger/,
    ],
    ['latents of a model with biases, which are taken off', 3, 'f16', /the most that its store, f16, holds/],
    ['attention in f32', 0, 'f32', /the most that attention in f32 holds/],
  ])('takes numbers up to a limit: %s', async (_, bias, store, words) => {
    const { artifactOf, run } = await fitted(FULL_RANK, { bias })
    const { artifact } = await artifactOf('values')
    const { shape, values } = artifact.tensors['0.values.basis'] as HostTensor
    const basis = Float32Array.from(values)
    const width = shape[2] ?? 0
    const sums = Array.from({ length: shape[1] ?? 0 }, (_, r) =>
      basis.subarray(r * width, (r + 1) * width).reduce((sum, x) => sum + Math.abs(x), 0),
    )
    const gain = Math.max(...sums)
    const direction = basis.subarray(sums.indexOf(gain) * width, (sums.indexOf(gain) + 1) * width).map(Math.sign)
    expect(gain).toBeGreaterThan(1.5)
    const limit = (store === 'f16' ? 65504 : 1e12) / gain / (bias ? 2 : 1)
    const compressor = window({ store }, lorc(FULL_RANK))
    const { artifacts } = await calibrate(compressor, run)
    /** One token whose values lie along the basis vector that makes the largest latent of them. */
    const outcome = async (size: number): Promise<number[]> => {
      const cache = openCache(model, ready(compressor, artifacts))
      const queries = zeros([model.queryHeads, 1, model.keyDim])
      const keys = zeros([model.kvHeads, 1, model.keyDim])
      const values = tensor(
        direction.map((sign) => sign * size),
        [model.kvHeads, 1, model.valueDim],
      )
      try {
        cache.begin(Int32Array.of(1), 'promptEnd')
        const output = await cache.attend(0, { queries, keys, values })
        const held = await cache.materialize(0)
        const numbers = [...(await output.data()), ...(await held.values.data())]
        dispose([output, held.keys, held.values])
        return numbers
      } finally {
        dispose([queries, keys, values])
        cache.dispose()
      }
    }
    expect((await outcome(limit * 0.999)).every(Number.isFinite)).toBe(true)
    const refused = outcome(limit * 1.001)
    await expect(refused).rejects.toThrow(NonFiniteError)
    await expect(refused).rejects.toThrow(words)
  })

  it('is exact at full rank', async () => {
    for (const bias of [0, 3]) {
      const { through } = await fitted({ rank: 16, keyRank: 24, allocation: 'uniform' }, { bias })
      for (const part of ['keys', 'values'] as const) {
        const { back, rows } = await through(1, part)
        expect(distance(back, rows)).toBeLessThan(ROUNDING * Math.hypot(...rows))
      }
    }
  })

  it('is exact at full rank where keys are normed and wider than the hidden states', async () => {
    // Two heads of 12 from 10 channels: the weight has rank 10, the normed rows have 24.
    for (const bias of [0, 3]) {
      const error = async (keyRank: number) => {
        const given = { hidden: 10, normed: true, bias }
        const { back, rows } = await (await fitted({ keyRank, valueRank: 4, allocation: 'uniform' }, given)).through(
          1,
          'keys',
        )
        return distance(back, rows) / Math.hypot(...rows)
      }
      expect(await error(24)).toBeLessThan(ROUNDING)
      expect(await error(10)).toBeGreaterThan(0.05)
      expect(await error(18)).toBeLessThan(await error(12))
      await expect(error(25)).rejects.toThrow(ModelMismatch)
    }
    // Without a norm the rank of the weight is enough, and all there is.
    const plain = { hidden: 10 }
    const { back, rows } = await (await fitted({ rank: 10, allocation: 'uniform' }, plain)).through(1, 'keys')
    expect(distance(back, rows)).toBeLessThan(ROUNDING * Math.hypot(...rows))
    await expect(fitted({ rank: 11, allocation: 'uniform' }, plain).then((f) => f.through(1, 'keys'))).rejects.toThrow(
      /rows have rank 10 at most/,
    )
  })

  it('shares out ranks of normed keys up to their full width', async () => {
    const { through } = await fitted({ keyRank: 12, valueRank: 4 }, { hidden: 10, normed: true })
    expect((await through(0, 'keys')).rank + (await through(1, 'keys')).rank).toBe(24)
  })

  it('gives what the truncated weight would have given, a bias added whole', async () => {
    const { artifactOf, through, layers } = await fitted({ rank: 5, allocation: 'uniform' }, { bias: 100 })
    for (const part of ['keys', 'values'] as const) {
      const { artifact } = await artifactOf(part)
      const { back } = await through(0, part)
      const { width, dim, linear, offset } = layers[0]![part]
      const basis = matrix(5, width, artifact.tensors[`0.${part}.basis`]!.values)
      // x (U_r U_rᵀ W)ᵀ = x Wᵀ U_r U_rᵀ, the Eckart-Young truncation.
      const expected = multiply(multiply(linear, transpose(basis)), basis)
      for (let at = 0; at < back.length; at++) {
        const [head, token, channel] = [Math.floor(at / (TOKENS * dim)), Math.floor(at / dim) % TOKENS, at % dim]
        const column = head * dim + channel
        // f32 rows near 300 hold their linear part to about 1e-5.
        expect(Math.abs(back[at]! - expected.data[token * width + column]! - offset[column]!)).toBeLessThan(2e-4)
      }
    }
  })

  it('loses less with every rank, and least with the basis of the rows themselves', async () => {
    const errors: Record<string, number[]> = { weights: [], outputs: [] }
    for (const basis of ['weights', 'outputs'] as const)
      for (const rank of [1, 4, 8, 12, 16]) {
        const { back, rows } = await (await fitted({ rank, allocation: 'uniform', basis })).through(0, 'values')
        errors[basis]!.push(distance(back, rows))
      }
    const { weights = [], outputs = [] } = errors
    for (let i = 1; i < weights.length; i++) {
      expect(weights[i]).toBeLessThan(weights[i - 1]!)
      expect(outputs[i]).toBeLessThan(outputs[i - 1]!)
    }
    for (let i = 0; i < weights.length - 1; i++) expect(outputs[i]).toBeLessThan(weights[i]!)
  })

  it('takes the ranks of the options', async () => {
    const ranks = async (options: Options, part: Part) => {
      const { through } = await fitted(options)
      return [(await through(0, part)).rank, (await through(1, part)).rank]
    }
    expect(await ranks({ allocation: 'uniform' }, 'keys')).toEqual([12, 12])
    expect(await ranks({ allocation: 'uniform', rank: 5, valueRank: 7 }, 'values')).toEqual([7, 7])
    expect(await ranks({ allocation: 'uniform', rank: 5, valueRank: 7 }, 'keys')).toEqual([5, 5])
    // Two layers: depth 0 and 1, so the first and the last rank and nothing between.
    expect(await ranks({ maxRank: 14, minRank: 3 }, 'values')).toEqual([14, 3])
    expect(await ranks({ rank: 14 }, 'values')).toEqual([16, 12])
    expect(await ranks({ rank: 10 }, 'values')).toEqual([12, 8])
  })

  it('rounds its ranks to what a quantizer behind it takes, and is refused before it is fitted where none is that', async () => {
    const { run } = world()
    const packs = (multipleOf: number) =>
      defineQuantizer({
        name: 'packs',
        options: {},
        channels: (_, part) => (part === 'values' ? { multipleOf, of: 'head' } : undefined),
        quantizer: (_, { part, dim }) => {
          if (part === 'values' && dim % multipleOf !== 0) throw new ModelMismatch('packs', `${dim} channels.`, '')
          return { ...AS_IT_IS, rowsPerGroup: 1 }
        },
      })()
    const ranks = async (options: Options, multipleOf: number) => {
      const fit = compose(lorc(options), packs(multipleOf))
      const [artifact] = (await calibrate(fit, run)).artifacts
      return (['keys', 'values'] as const).map((part) =>
        [0, 1].map((layer) => artifact?.tensors[`${layer}.${part}.basis`]?.shape[1]),
      )
    }
    // Keys are 24 wide and values 16: the first rank of values is all of them, and the last one is what the mean leaves.
    const [keys, values] = await ranks({ rank: 11 }, 5)
    expect(keys).toEqual([14, 8])
    expect(values).toEqual([15, 10])
    expect((await ranks({}, 8))[1]).toEqual([8, 8])
    expect((await ranks({ basis: 'outputs', allocation: 'uniform' }, 5))[1]).toEqual([10, 10])
    const nothing = { ...run, rows: () => Promise.reject(new Error('fitted')) }
    await expect(
      calibrate(compose(lorc({ basis: 'outputs', allocation: 'uniform' }), packs(17)), nothing),
    ).rejects.toThrow(
      /lorc does not fit this model: what stands behind it takes multiples of 17 channels of values, .* rank 16 at most/,
    )
    expect(() => compose(lorc({ allocation: 'uniform', rank: 12 }), packs(8))).toThrow(
      /rows behind lorc have 12 channels, and packs takes a multiple of 8/,
    )
    expect(() => compose(lorc({ allocation: 'uniform', rank: 12, valueRank: 16 }), packs(8))).not.toThrow()
  })

  it('says what it learned, and leaves no tensors behind', async () => {
    const before = memory().numTensors
    const { artifactOf, through } = await fitted({ keyRank: 6 })
    const { artifact } = await artifactOf('keys')
    expect(artifact.json).toMatchObject({ 'model.keys': { ranks: [expect.any(Number), expect.any(Number)] } })
    const spectrum = artifact.tensors['1.keys.singularValues']!
    expect(spectrum.shape).toEqual([24])
    expect([...spectrum.values]).toEqual([...spectrum.values].sort((a, b) => b - a))
    await through(0, 'keys')
    expect(memory().numTensors).toBe(before)
  })

  it('is, at full rank, a cache that attends as the uncompressed one, and holds rank numbers per token', async () => {
    const { run, rowsOf } = world({ bias: 1 })
    const plain: KVCompressor = { card: lorc.card, stages: [], store: 'f32' }
    const attended = async (fitted: Ready): Promise<{ output: Float32Array; payload: number }> => {
      const cache = openCache(model, fitted)
      let last = new Float32Array(0)
      for (const [from, count] of [
        [0, TOKENS - 2],
        [TOKENS - 2, 1],
        [TOKENS - 1, 1],
      ] as const) {
        cache.begin(new Int32Array(count), from === 0 ? 'promptEnd' : 'decode')
        for (let layer = 0; layer < model.layers; layer++) {
          const now = (part: Part) => tidy(() => slice(upload(rowsOf(layer, part)), [0, from, 0], [-1, count, -1]))
          const [keys, values] = [now('keys'), now('values')]
          const queries = randomNormal([model.queryHeads, count, model.keyDim], 0, 1, 'float32', from + layer)
          const output = await cache.attend(layer, { queries, keys, values })
          last = (await output.data()).slice() as Float32Array<ArrayBuffer>
          dispose([keys, values, queries, output])
        }
        await cache.commit()
      }
      const { payload } = cache.bytes()
      cache.dispose()
      return { output: last, payload }
    }
    const full = await attended(
      await calibrate(window({ store: 'f32' }, lorc({ keyRank: 24, valueRank: 16, allocation: 'uniform' })), run),
    )
    const exact = await attended(ready(plain))
    expect(distance(full.output, exact.output)).toBeLessThan(1e-4 * Math.hypot(...exact.output)) // f32, twice through a basis
    const { payload } = await attended(await calibrate(lorc({ keyRank: 6, valueRank: 10, allocation: 'uniform' }), run))
    expect(payload).toBe(TOKENS * (6 + 10) * 2 * model.layers)
  })

  it('proposes to hold nothing exact, before RoPE, also of its own step', () => {
    const { stages, window, ownRows } = lorc()
    expect(stages.map((s) => s.on?.part)).toEqual(['keys', 'values'])
    expect(window?.keys).toEqual({ recent: 0, block: 1, drain: 'all' })
    expect(ownRows).toBe('stored')
    const keysOnly = lorc({ parts: 'keys' })
    expect(keysOnly.stages.map((s) => s.on?.part)).toEqual(['keys'])
    expect(keysOnly.window?.values.recent).toBe(Number.POSITIVE_INFINITY)
  })

  it('refuses what does not fit', async () => {
    for (const options of [
      { rank: -1 },
      { rank: 1.5 },
      { allocation: 'uniform', maxRank: 4 },
      { allocation: 'uniform', minRank: 4 },
      { minRank: 4, rank: 5 },
      { maxRank: 4, keyRank: 5 },
      { maxRank: 4, minRank: 5 },
      { basis: 'outputs' },
    ] as const)
      expect(() => lorc(options), JSON.stringify(options)).toThrow(OptionError)
    await expect((await fitted({ rank: 17, allocation: 'uniform' })).artifactOf('values')).rejects.toThrow(
      ModelMismatch,
    )
    const [stage] = stagesOn(lorc(), 'transform', 0, 'keys')
    expect(() => stage?.bind(siteOf(model, 0, 'keys'))).toThrow(ArtifactMismatch)
    const { artifactOf } = await fitted({ rank: 3 })
    const { artifact } = await artifactOf('keys')
    const wider = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 16, valueDim: 8 })
    expect(() => stage?.bind(siteOf(wider, 0, 'keys'), artifact)).toThrow(ArtifactMismatch)
    const perHead = defineScorer({ name: 'per-head', needs: {}, score: () => zeros([2, 1]) })
    expect(() => compose(perHead(), lorc())).toThrow(IncompatibleStages)
  })
})

describe('progressive ranks', () => {
  const conditions = fc
    .integer({ min: 1, max: 80 })
    .chain((n) =>
      fc.tuple(
        ...[0, 1].map(() => fc.array(fc.double({ min: 0, max: 12, noNaN: true }), { minLength: n, maxLength: n })),
      ),
    )
    .map(([keys = [], values = []]) => ({ keys, values }))

  it('fall from the largest to the smallest', () => {
    fc.assert(
      fc.property(conditions, fc.integer({ min: 1, max: 500 }), fc.integer({ min: 0, max: 500 }), (c, min, more) => {
        const ranks = [...progressiveRanks(c, { max: min + more, min }).ranks]
        expect(ranks).toEqual([...ranks].sort((a, b) => b - a))
        expect(ranks[0]).toBe(min + more)
        expect(ranks.at(-1)).toBeGreaterThanOrEqual(min)
      }),
    )
  })

  it('have the mean that is asked for, between 8 and the full width', () => {
    fc.assert(
      fc.property(conditions, fc.integer({ min: 1, max: 256 }), (c, mean) => {
        const range = rangeOfMean(c, mean, 256)
        const { real } = progressiveRanks(c, range)
        expect(real.reduce((sum, x) => sum + x, 0) / real.length).toBeCloseTo(mean, 6)
        expect(range.min).toBeGreaterThanOrEqual(Math.min(8, mean))
        expect(range.max).toBeLessThanOrEqual(256 + 1e-9)
      }),
    )
  })

  it('do not overflow where the product of condition numbers does', () => {
    const keys = new Float64Array(80).fill(Math.log(1e6))
    expect(progressiveRanks({ keys, values: keys }, { max: 80, min: 1 }).ranks[40]).toBe(40)
  })
})
