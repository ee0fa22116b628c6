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
  type KVCompressor,
  ModelMismatch,
  NOTHING_ASKED,
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
import { registerKernels } from '@kvloom/kernels'
import { seededRandom } from '@kvloom/math'
import { dispose, memory, randomNormal, setBackend, slice, type Tensor, tidy, zeros } from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { compressKvHeads } from './compress-kv-heads'
import { headsPerGroup, latents } from './groups'

type Options = NonNullable<Parameters<typeof compressKvHeads>[0]>

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })

const small = { backends: ['wasm'], shapes: shapesOf(3).slice(0, 2) } as const
testCompressor(runner, {
  name: 'compress-kv-heads, two heads as one',
  make: () => compressKvHeads(),
  ...small,
  decode: 40,
})
testCompressor(runner, {
  name: 'compress-kv-heads, before RoPE',
  make: () => compressKvHeads({ keyRank: 40, valueRank: 12, rope: 'pre' }),
  identity: () => window({ store: 'f32' }, compressKvHeads({ rank: 64, rope: 'pre' })), // 2 KV heads of 32
  ...small,
  shapes: small.shapes.slice(0, 1),
})
testCompressor(runner, {
  name: 'compress-kv-heads, each head alone',
  make: () => compressKvHeads({ headsPerGroup: 1, rank: 20 }),
  identity: () => window({ store: 'f32' }, compressKvHeads({ headsPerGroup: 1 })),
  ...small,
})
testCompressor(runner, {
  name: 'compress-kv-heads, almost nothing of keys',
  make: () => compressKvHeads({ rank: 1, parts: 'keys' }),
  ...small,
  shapes: small.shapes.slice(0, 1),
})

/** Two layers, four KV heads in two groups of two. */
const model = syntheticModel({ queryHeads: 8, kvHeads: 4, keyDim: 12, valueDim: 8 })
const TOKENS = 90
/** float32 products of a few dozen terms. */
const ROUNDING = 1e-5

/** Rows of which the two heads of a group share `shared` directions; `shared` of both heads' channels is all. */
function rowsOf(layer: number, part: Part, shared = 3): HostTensor {
  const dim = part === 'keys' ? model.keyDim : model.valueDim
  const random = seededRandom(31 * layer + (part === 'keys' ? 1 : 2))
  const values = new Float32Array(model.kvHeads * TOKENS * dim)
  for (let group = 0; group < model.kvHeads / 2; group++) {
    const mix = random.gaussians(shared * 2 * dim)
    for (let t = 0; t < TOKENS; t++) {
      const latent = random.gaussians(shared)
      for (let c = 0; c < 2 * dim; c++) {
        const head = 2 * group + Math.floor(c / dim)
        const x = latent.reduce((sum, z, i) => sum + z * (mix[i * 2 * dim + c] ?? 0), 0)
        values[(head * TOKENS + t) * dim + (c % dim)] = x + 3 // an offset: rows are not centred
      }
    }
  }
  return { shape: [model.kvHeads, TOKENS, dim], values }
}

function runOf(
  shared?: number,
  change: (rows: HostTensor) => readonly HostTensor[] = (rows) => [rows],
): CalibrationRun {
  const refuse = async (): Promise<never> => {
    throw new Error('not asked for')
  }
  return {
    model,
    weights: { shape: model, names: () => [], get: refuse },
    rows: async (layer) => ({
      keys: change(rowsOf(layer, 'keys', shared)),
      values: change(rowsOf(layer, 'values', shared)),
    }),
    gradients: refuse,
    hidden: refuse,
    sentences: refuse,
  }
}

/** A prompt, a token, a second prompt and another token. @returns the output of the last step, and what is stored */
async function attended(fitted: Ready): Promise<{ output: Float32Array; payload: number }> {
  const cache = openCache(model, fitted)
  let last = new Float32Array(0)
  const steps = [
    [0, TOKENS - 12],
    [TOKENS - 12, 1],
    [TOKENS - 11, 10],
    [TOKENS - 1, 1],
  ] as const
  for (const [from, count] of steps) {
    cache.begin(new Int32Array(count), count > 1 ? 'promptEnd' : 'decode')
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

const dense: KVCompressor = { card: compressKvHeads.card, stages: [], store: 'f32' }
const exactly = (options: Options) => window({ store: 'f32' }, compressKvHeads({ headsPerGroup: 2, ...options }))
const distance = (a: Float32Array, b: Float32Array): number => Math.hypot(...a.map((x, i) => x - (b[i] ?? Number.NaN)))

/** A quantizer that keeps rows as they are, and takes a multiple of some number of channels. */
const packs = (multipleOf: number) =>
  defineQuantizer({
    name: 'packs',
    options: {},
    channels: () => ({ multipleOf, of: 'head' }),
    quantizer: (_, { dim }) => {
      if (dim % multipleOf !== 0) throw new ModelMismatch('packs', `${dim} channels.`, '')
      return {
        layout: { kind: 'custom', fields: { rows: { counts: 'payload' } } },
        theoreticalBitsPerValue: 32,
        rowsPerGroup: 1,
        encode: (rows: Tensor) => ({ rows: rows.clone() }),
        decode: ({ rows }: { readonly rows: Tensor }) => rows,
      }
    },
  })()

describe('compress-kv-heads', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('attends as the uncompressed cache where its rank is that of the rows, with a fraction of their numbers', async () => {
    const exact = await attended(ready(dense))
    // Four directions before RoPE: three and the offset. RoPE turns keys out of them, so keys after it need all 24.
    for (const [options, numbers] of [
      [{ rope: 'pre', keyRank: 4, valueRank: 4 }, 4 + 4],
      [{ rope: 'post', keyRank: 24, valueRank: 4 }, 24 + 4],
    ] as const) {
      const { output, payload } = await attended(await calibrate(exactly(options), runOf()))
      expect(distance(output, exact.output)).toBeLessThan(1e-4 * Math.hypot(...exact.output)) // f32, twice through a basis
      expect(payload).toBe(TOKENS * 2 * numbers * 4 * model.layers)
    }
    const { output } = await attended(await calibrate(exactly({ rope: 'pre', keyRank: 4, valueRank: 2 }), runOf()))
    expect(distance(output, exact.output)).toBeGreaterThan(0.05 * Math.hypot(...exact.output))
  })

  it('takes keys as the layer stores them: its basis after RoPE serves rotated keys better than the one before it', async () => {
    const exact = await attended(ready(dense))
    const error = async (fitted: Ready) => distance((await attended(fitted)).output, exact.output)
    const options = { keyRank: 9, parts: 'keys' } as const
    const post = await calibrate(exactly(options), runOf())
    const pre = await calibrate(exactly({ ...options, rope: 'pre' }), runOf())
    const stage = pre.artifacts[0]
    const wrong = { ...post, artifacts: post.artifacts.map((a) => ({ ...a, tensors: stage?.tensors ?? {} })) }
    expect(await error(post)).toBeLessThan(0.5 * (await error(wrong)))
  })

  it('is exact at full rank also where calibration saw fewer tokens than channels', async () => {
    const few = runOf(3, ({ shape, values }) => {
      const [heads = 0, tokens = 0, dim = 0] = shape
      const each = Array.from({ length: heads }, (_, h) => [
        ...values.subarray(h * tokens * dim, (h * tokens + 2) * dim),
      ])
      return [{ shape: [heads, 2, dim], values: Float32Array.from(each.flat()) }]
    })
    const exact = await attended(ready(dense))
    const fitted = await calibrate(exactly({ keyRank: 24, valueRank: 16 }), few)
    expect(fitted.artifacts[0]?.tensors['0.keys.singularValues']?.shape).toEqual([2, 2])
    expect(distance((await attended(fitted)).output, exact.output)).toBeLessThan(1e-4 * Math.hypot(...exact.output))
  })

  it('says what it learned: falling singular values, the energy it keeps, and the whole model is in one artifact', async () => {
    const before = memory().numTensors
    const [artifact] = (await calibrate(exactly({ rank: 4, rope: 'pre' }), runOf())).artifacts
    expect(artifact?.json).toMatchObject({
      '1.values': { rank: 4, headsPerGroup: 2, keptEnergy: [expect.closeTo(1, 12), expect.closeTo(1, 12)] },
    })
    const spectrum = artifact?.tensors['1.keys.singularValues']
    expect(spectrum?.shape).toEqual([2, 24])
    const first = [...(spectrum?.values ?? [])].slice(0, 24)
    expect(first).toEqual([...first].sort((a, b) => b - a))
    expect(memory().numTensors).toBe(before)
  })

  it('binds a head alone to the block of that head, where heads have groups of their own', async () => {
    const { compressor, artifacts } = await calibrate(compressKvHeads({ headsPerGroup: 1, rank: 5 }), runOf())
    const [stage] = stagesOn(compressor, 'transform', 1, 'values')
    const basis = artifacts[0]?.tensors['1.values.basis']
    const held: HostTensor[] = []
    const site = siteOf(model, 1, 'values', (table) => {
      held.push(table)
      return zeros(table.shape as [number, number, number])
    })
    const bound = stage?.bind({ ...site, firstHead: 2, heads: 1 }, artifacts[0])
    expect(bound?.main).toEqual({ heads: 1, dim: 5 })
    expect(held[0]?.shape).toEqual([1, 5, 8])
    expect([...(held[0]?.values ?? [])]).toEqual([...(basis?.values ?? [])].slice(2 * 40, 3 * 40))
  })

  it('groups the most heads up to four, and keeps one head of each', () => {
    const options = compressKvHeads().stages[0]?.options as never
    expect([1, 2, 3, 4, 5, 6, 8, 9, 32, 40].map((heads) => headsPerGroup(options, heads))).toEqual([
      1, 2, 3, 4, 1, 3, 4, 3, 4, 4,
    ])
    const rows = { kvHeads: 8, dim: 64, part: 'keys' } as const
    expect(latents(options, rows, NOTHING_ASKED)).toEqual({ heads: 2, dim: 64 })
    expect(latents(options, rows, { ...NOTHING_ASKED, channels: 48 })).toEqual({ heads: 2, dim: 48 })
    expect(latents(options, rows, { ...NOTHING_ASKED, channels: 256 })).toEqual({ heads: 2, dim: 256 })
  })

  it('rounds its ranks to what a quantizer behind it takes, and is refused before it is fitted where none is that', async () => {
    const ranks = async (options: Options, multipleOf: number) => {
      const fitted = await calibrate(compose(exactly(options), packs(multipleOf)), runOf())
      return (['keys', 'values'] as const).map((part) => fitted.artifacts[0]?.tensors[`0.${part}.basis`]?.shape[1])
    }
    expect(await ranks({ rank: 7 }, 4)).toEqual([8, 8])
    expect(await ranks({ keyRank: 24, valueRank: 1 }, 5)).toEqual([20, 5])
    const nothing = { ...runOf(), rows: () => Promise.reject(new Error('fitted')) }
    await expect(calibrate(compose(exactly({}), packs(17)), nothing)).rejects.toThrow(
      /compress-kv-heads does not fit this model: what stands behind it takes multiples of 17 channels of values, whose groups have 16/,
    )
  })

  it('proposes to hold nothing exact, also of its own step', () => {
    const { stages, window, ownRows } = compressKvHeads()
    expect(stages.map((s) => s.on?.part)).toEqual(['keys', 'values'])
    expect(window?.keys).toEqual({ recent: 0, block: 1, drain: 'all' })
    expect(ownRows).toBe('stored')
    const valuesOnly = compressKvHeads({ parts: 'values' })
    expect(valuesOnly.stages.map((s) => s.on?.part)).toEqual(['values'])
    expect(valuesOnly.window?.keys.recent).toBe(Number.POSITIVE_INFINITY)
  })

  it('works behind an exact window that is longer than the prompt', async () => {
    const long = window({ keys: { recent: 200 }, values: { recent: 200 } }, exactly({ rank: 2 }))
    const exact = await attended(ready(dense))
    const { output } = await attended(await calibrate(long, runOf()))
    expect(distance(output, exact.output)).toBeLessThan(ROUNDING * Math.hypot(...exact.output))
  })

  it('refuses what does not fit', async () => {
    for (const options of [{ rank: 0 }, { keyRank: 1.5 }, { headsPerGroup: -2 }, { rope: 'free' as 'pre' }] as const)
      expect(() => compressKvHeads(options), JSON.stringify(options)).toThrow(OptionError)
    const run = { ...runOf(), rows: () => Promise.reject(new Error('fitted')) }
    await expect(calibrate(compressKvHeads({ headsPerGroup: 3 }), run)).rejects.toThrow(/groups of 3 .* 4 KV heads/)
    await expect(calibrate(exactly({ valueRank: 17 }), run)).rejects.toThrow(ModelMismatch)
    await expect(calibrate(compressKvHeads({ headsPerGroup: 1, keyRank: 13 }), run)).rejects.toThrow(/a head has 12/)
    const [stage] = stagesOn(compressKvHeads(), 'transform', 0, 'keys')
    expect(() => stage?.bind(siteOf(model, 0, 'keys'))).toThrow(ArtifactMismatch)
    const [artifact] = (await calibrate(compressKvHeads(), runOf())).artifacts
    const wider = syntheticModel({ queryHeads: 8, kvHeads: 4, keyDim: 16, valueDim: 8 })
    expect(() => stage?.bind(siteOf(wider, 0, 'keys'), artifact)).toThrow(ArtifactMismatch)
    const perHead = defineScorer({ name: 'per-head', needs: {}, score: () => zeros([2, 1]) })
    expect(() => compose(perHead(), compressKvHeads())).toThrow(IncompatibleStages)
    expect(() => compose(perHead(), compressKvHeads({ headsPerGroup: 1 }))).not.toThrow()
  })

  it('cannot be fitted on nothing, nor on numbers that are none', async () => {
    const none = runOf(3, () => [])
    await expect(calibrate(exactly({}), none)).rejects.toThrow(CalibrationError)
    const nan = runOf(3, (rows) => {
      const values = Float32Array.from(rows.values)
      values[values.length - 1] = Number.NaN
      return [{ ...rows, values }]
    })
    await expect(calibrate(exactly({}), nan)).rejects.toThrow(/some keys of layer 0 are not finite/)
  })

  it('refuses a step with NaN, and goes on as if it had not been', async () => {
    const before = memory().numTensors
    const cache = openCache(model, await calibrate(exactly({ rank: 4 }), syntheticRun(model)))
    cache.begin(new Int32Array(1), 'promptEnd')
    const bad = upload({ shape: [4, 1, 12], values: new Float32Array(48).fill(Number.NaN) })
    const good = zeros([4, 1, 8])
    const queries = zeros([8, 1, 12])
    await expect(cache.attend(0, { queries, keys: bad as never, values: good as never } as never)).rejects.toThrow(
      NonFiniteError,
    )
    dispose([bad, good, queries])
    cache.dispose()
    expect(memory().numTensors).toBe(before)
  })
})
