import { SHAPES, syntheticModel, testCompressor } from '@kvloom/conformance'
import {
  type Artifact,
  ArtifactMismatch,
  CalibrationError,
  type CalibrationRun,
  calibrate,
  type HostTensor,
  type LayerSamples,
  ModelMismatch,
  NOTHING_ASKED,
  OptionError,
  openCache,
  type Part,
  type Quantizer,
  type Site,
  siteOf,
  stagesOn,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { type CodebookLayout, registerKernels } from '@kvloom/kernels'
import { kmeans, matrix, seededRandom } from '@kvloom/math'
import { dispose, setBackend, tensor, tensor3d } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeEach, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { coupledQuantization } from './coupled-quantization'
import { type Group, lloyd, type Samples } from './lloyd'

type Options = NonNullable<Parameters<typeof coupledQuantization>[0]>

testGolden({ describe, it, expect }, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })

const small = { backends: ['wasm'], shapes: SHAPES.slice(0, 2) } as const
testCompressor(
  { describe, it, expect },
  {
    name: 'coupled-quantization, fitted, codes of 4 channels',
    make: () => coupledQuantization({ channels: 4, bits: 5, sinks: 2, recent: 8 }),
    ...small,
  },
)
testCompressor(
  { describe, it, expect },
  {
    name: 'coupled-quantization, fitted without gradients, single channels',
    make: () => coupledQuantization({ channels: 1, bits: 2, sensitivity: 'none' }),
    ...small,
    decode: 40,
  },
)

const model = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 16, valueDim: 16 })

/** `[heads, rows, dim]`: channels in runs of `span` have correlation `rho`. */
function correlated(seed: number, [heads, rows, dim]: readonly [number, number, number], rho = 0.8, span = dim) {
  const random = seededRandom(seed)
  const values = new Float32Array(heads * rows * dim)
  let common = 0
  for (let at = 0; at < values.length; at++) {
    if (at % span === 0) common = random.gaussian()
    values[at] = Math.sqrt(rho) * common + Math.sqrt(1 - rho) * random.gaussian()
  }
  return { shape: [heads, rows, dim], values }
}

const squared = ({ shape, values }: HostTensor): HostTensor => ({ shape, values: values.map((x) => x * x) })

function stageOf(options: Options, part: Part) {
  const [stage] = stagesOn(coupledQuantization(options), 'quantize', 0, part)
  if (stage?.fit?.scope !== 'layer') throw new Error('coupled-quantization has no stage that fits a layer')
  return { stage, fit: stage.fit }
}

function samplesOf(target: readonly HostTensor[], gradients?: readonly HostTensor[]): LayerSamples {
  const [heads = 0, , dim = 0] = target[0]?.shape ?? []
  return { layer: 0, part: 'keys', model, heads, dim, target, sources: [], ...(gradients ? { gradients } : {}) }
}

async function fitted(options: Options, target: readonly HostTensor[], gradients?: readonly HostTensor[]) {
  const { json, tensors } = await stageOf(options, 'keys').fit.run(samplesOf(target, gradients), NOTHING_ASKED)
  const { codebook } = tensors
  if (!codebook) throw new Error('no codebook was learned')
  return { json, codebook }
}

const artifactOf = (codebook: HostTensor): Artifact => ({
  stage: 'coupled-quantization',
  fingerprint: 'test',
  json: null,
  tensors: { '0.keys.codebook': codebook },
})

/** Binds the keys of layer 0 to a codebook for as long as `work` runs. */
async function bound<T>(
  options: Options,
  codebook: HostTensor,
  site: Partial<Site>,
  work: (quantizer: Quantizer) => Promise<T>,
): Promise<T> {
  const held: { dispose(): void }[] = []
  const hold: Site['hold'] = ({ shape, values }) => {
    const table = tensor(values, [...shape])
    held.push(table)
    return table
  }
  const { stage } = stageOf(options, 'keys')
  try {
    return await work(stage.bind({ ...siteOf(model, 0, 'keys', hold), ...site }, artifactOf(codebook)))
  } finally {
    for (const table of held) table.dispose()
  }
}

/** Codes and reconstruction of rows. */
async function through(quantizer: Quantizer, { shape, values }: HostTensor) {
  const rows = tensor(values, [...shape])
  const block = quantizer.encode(rows)
  const decoded = quantizer.decode(block, shape[1] ?? 0)
  const { codes: words } = block
  if (!words) throw new Error('a block holds no codes')
  const codes = ((await words.data()) as Int32Array).slice()
  const back = ((await decoded.data()) as Float32Array).slice()
  const bytes = 4 * codes.length
  dispose([rows, ...Object.values(block), decoded])
  return { codes, back, bytes }
}

function meanSquare(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += ((a[i] ?? 0) - (b[i] ?? 0)) ** 2
  return sum / a.length
}

const onBackend = async (backend: 'cpu' | 'wasm') => {
  await registerKernels(backend)
  await setBackend(backend)
}

beforeEach(() => onBackend('wasm'))

describe('learning', () => {
  it.each([
    // Spec of the method: mean squared error per value on fresh rows, equicorrelated N(0, 1).
    [0, 2, 4, 0.108],
    [0, 4, 8, 0.099],
    [0.6, 4, 8, 0.064],
    [0.6, 8, 8, 0.177],
    [0.9, 2, 2, 0.162],
    [0.9, 4, 8, 0.024],
    [0.9, 8, 8, 0.054],
  ] as const)('reaches the known error at correlation %f: %ic%ib', async (rho, channels, bits, expected) => {
    const options: Options = { channels, bits, sensitivity: 'none', restarts: 2, iterations: 25 }
    const { codebook } = await fitted(options, [correlated(1, [2, 16384, 8], rho)])
    const rows = correlated(2, [2, 16384, 8], rho)
    const { back } = await bound(options, codebook, { dim: 8 }, (quantizer) => through(quantizer, rows))
    // Rows are drawn anew here, and optima are local.
    expect(Math.abs(meanSquare(rows.values, back) / expected - 1)).toBeLessThan(0.05)
  })

  it('gives the same bytes for the same seed, on every backend, and others for another seed', async () => {
    const target = [correlated(3, [2, 300, 8]), correlated(4, [2, 100, 8])]
    const learn = async (options: Options) =>
      (await fitted({ bits: 4, ...options }, target, target.map(squared))).codebook
    const first = await learn({ seed: 7, maxSamples: 256 })
    expect(first.shape).toEqual([2, 2, 16, 4])
    expect(await learn({ seed: 7, maxSamples: 256 })).toEqual(first)
    expect((await learn({ seed: 8, maxSamples: 256 })).values).not.toEqual(first.values)
    expect((await learn({ seed: 7 })).values).not.toEqual(first.values)
    await onBackend('cpu')
    expect(await learn({ seed: 7, maxSamples: 256 })).toEqual(first)
  })

  it('keeps the cheaper of its starts, group by group', async () => {
    const target = [correlated(5, [2, 500, 16], 0.3)]
    const costs: number[] = []
    for (const restarts of [1, 2, 4, 8]) {
      const { json } = await fitted({ bits: 5, sensitivity: 'none', restarts }, target)
      costs.push((json as { cost: number }).cost)
    }
    expect(costs).toEqual([...costs].sort((a, b) => b - a))
    expect(costs.at(-1)).toBeLessThan(costs[0] ?? 0)
  })

  it('weighs rows by their squared gradients, summed over the channels of a group', async () => {
    // The left half of the rows matters in the first group of channels, the right half in the second.
    const target = correlated(6, [1, 800, 8], 0.2, 4)
    const gradients = { ...target, values: new Float32Array(target.values.length) }
    for (let row = 0; row < 800; row++) gradients.values[row * 8 + (row < 400 ? 1 : 6)] = 3
    const options: Options = { bits: 4, iterations: 20 }
    const { codebook } = await fitted(options, [target], [gradients])
    // Only relative weights count.
    const tripled = { ...gradients, values: gradients.values.map((x) => 4 * x) }
    expect((await fitted(options, [target], [tripled])).codebook).toEqual(codebook)
    const { back } = await bound(options, codebook, { heads: 1, dim: 8 }, (quantizer) => through(quantizer, target))
    const errorOf = (firstRow: number, group: number) => {
      let sum = 0
      for (let row = firstRow; row < firstRow + 400; row++)
        for (let at = row * 8 + group * 4; at < row * 8 + group * 4 + 4; at++)
          sum += ((target.values[at] ?? 0) - (back[at] ?? 0)) ** 2
      return sum
    }
    expect(errorOf(0, 0)).toBeLessThan(errorOf(400, 0))
    expect(errorOf(400, 1)).toBeLessThan(errorOf(0, 1))
  })

  it('treats a group that the loss does not depend on as if all its rows did', async () => {
    const target = correlated(7, [1, 200, 8])
    const gradients = { ...target, values: target.values.map((x, at) => (at % 8 < 4 ? x * x : 0)) }
    const fisher = await fitted({ bits: 3 }, [target], [gradients])
    const plain = await fitted({ bits: 3, sensitivity: 'none' }, [target])
    const size = 8 * 4
    expect(fisher.codebook.values.subarray(size)).toEqual(plain.codebook.values.subarray(size))
    expect(fisher.codebook.values.subarray(0, size)).not.toEqual(plain.codebook.values.subarray(0, size))
  })

  it('leaves out the sinks of every sequence', async () => {
    const target = [correlated(8, [2, 150, 8]), correlated(9, [2, 150, 8])]
    const wild = target.map(({ shape, values }) => ({
      shape,
      values: values.map((x, at) => (Math.floor(at / 8) % 150 < 2 ? 1000 : x)),
    }))
    const options: Options = { bits: 3, sensitivity: 'none', sinks: 2 }
    expect(await fitted(options, wild)).toEqual(await fitted(options, target))
  })

  it('says why it cannot be fitted', async () => {
    const target = [correlated(10, [2, 100, 8])]
    await expect(fitted({ bits: 4 }, target)).rejects.toThrow(CalibrationError)
    await expect(fitted({ bits: 4 }, target)).rejects.toThrow(/Use sensitivity "none"/)
    await expect(fitted({ bits: 8, sensitivity: 'none' }, target)).rejects.toThrow(/100 calibration tokens/)
    await expect(fitted({ bits: 4 }, target, [correlated(1, [2, 50, 8])])).rejects.toThrow(/differ in shape/)
    target[0]?.values.fill(Number.NaN, 5, 6)
    await expect(fitted({ bits: 4, sensitivity: 'none' }, target)).rejects.toThrow(/not finite/)
  })
})

describe('lloyd', () => {
  const layout = (vector: number, entries: number): CodebookLayout => ({
    kind: 'codebook',
    vector,
    entries,
    tables: 'channels',
    scale: 'none',
    group: 0,
    hadamard: 0,
  })
  /** Two heads of two groups; some rows weigh nothing. */
  function problem(seed: number, rows: number, vector: number): Samples {
    const dim = 2 * vector
    const { values } = correlated(seed, [2, rows, dim], 0.5)
    const random = seededRandom(seed)
    const groups = Array.from({ length: 4 }, (_, g): Group => {
      const from = Math.floor(g / 2) * rows * dim + (g % 2) * vector
      return {
        points: Float32Array.from(
          { length: rows * vector },
          (_, at) => values[from + Math.floor(at / vector) * dim + (at % vector)] ?? 0,
        ),
        weights: Float32Array.from({ length: rows }, () => Math.max(0, random.gaussian())),
      }
    })
    return { heads: 2, rows, dim, values, groups }
  }
  const startOf = ({ groups }: Samples, vector: number, entries: number) => {
    const start = new Float32Array(groups.length * entries * vector)
    for (const [g, { points }] of groups.entries())
      start.set(points.subarray(0, entries * vector), g * entries * vector)
    return start
  }

  it('never raises its cost, and equals k-means in float64', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 1e6 }),
        fc.constantFrom(1, 2, 4),
        fc.integer({ min: 2, max: 40 }),
        async (seed, vector, entries) => {
          const samples = problem(seed, 120, vector)
          const start = startOf(samples, vector, entries)
          const costs: Float64Array[] = []
          for (let steps = 0; steps < 4; steps++)
            costs.push((await lloyd(samples, layout(vector, entries), start, { steps, empty: 'keep' })).costs)
          for (const [g, { points, weights }] of samples.groups.entries()) {
            const size = entries * vector
            const reference = kmeans(matrix(120, vector, points), {
              clusters: entries,
              weights,
              initial: matrix(entries, vector, start.subarray(g * size, (g + 1) * size)),
              iterations: 1,
              empty: 'keep',
            })
            // f32 distances: rows between two centroids may go either way.
            const rounding = 1e-4 * (reference.costs[0] ?? 0)
            for (const step of [0, 1])
              expect(Math.abs((costs[step]?.[g] ?? 0) - (reference.costs[step] ?? reference.cost))).toBeLessThanOrEqual(
                rounding,
              )
            for (let step = 1; step < 4; step++)
              expect(costs[step]?.[g]).toBeLessThanOrEqual((costs[step - 1]?.[g] ?? 0) + rounding)
          }
        },
      ),
      { numRuns: 20 },
    )
  })

  it('moves centroids that nothing is nearest to onto the rows that cost most', async () => {
    const samples = problem(1, 200, 2)
    const start = new Float32Array(4 * 16 * 2).fill(0.5)
    const kept = await lloyd(samples, layout(2, 16), start, { steps: 6, empty: 'keep' })
    const moved = await lloyd(samples, layout(2, 16), start, { steps: 6, empty: 'reseed' })
    const costOf = ({ costs }: { costs: Float64Array }) => costs.reduce((a, b) => a + b, 0)
    expect(costOf(moved)).toBeLessThan(costOf(kept) / 2)
    expect(new Set(Array.from({ length: 16 }, (_, i) => moved.table.slice(2 * i, 2 * i + 2).join())).size).toBe(16)
    // Fewer different rows than centroids: every row is met exactly.
    const few = problem(2, 8, 2)
    const { costs } = await lloyd(few, layout(2, 16), new Float32Array(4 * 16 * 2), { steps: 3, empty: 'reseed' })
    expect(Math.max(...costs)).toBeLessThan(1e-9)
  })
})

describe('coupled-quantization', () => {
  const rows = correlated(20, [2, 70, 16], 0.7)

  it('gives every centroid back: codes of decoded rows are the same codes', async () => {
    for (const [channels, bits] of [
      [4, 6],
      [8, 5],
      [2, 3],
      [1, 2],
    ] as const) {
      const options: Options = { channels, bits, sensitivity: 'none' }
      const { codebook } = await fitted(options, [rows])
      await bound(options, codebook, {}, async (quantizer) => {
        const once = await through(quantizer, rows)
        const twice = await through(quantizer, { ...rows, values: once.back })
        expect(twice.codes).toEqual(once.codes)
        expect(twice.back).toEqual(once.back)
        expect(quantizer.theoreticalBitsPerValue).toBe(bits / channels)
        // Codes of a row fill whole words.
        expect(once.bytes).toBe(2 * 70 * 4 * Math.ceil(((16 / channels) * bits) / 32))
      })
    }
  })

  it('quantizes a head alone, or all heads as one row, as it does them side by side', async () => {
    const options: Options = { bits: 5, sensitivity: 'none' }
    const { codebook } = await fitted(options, [rows])
    const whole = await bound(options, codebook, {}, (quantizer) => through(quantizer, rows))
    const second = { shape: [1, 70, 16], values: rows.values.slice(70 * 16) }
    const alone = await bound(options, codebook, { firstHead: 1, heads: 1 }, (quantizer) => through(quantizer, second))
    expect(alone.back).toEqual(whole.back.slice(70 * 16))
    // Token by token the rows of both heads, as a predictor hands them on.
    const merged = { shape: [1, 70, 32], values: new Float32Array(2 * 70 * 16) }
    const place = (at: number) => (Math.floor(at / 16) % 70) * 32 + Math.floor(at / (70 * 16)) * 16 + (at % 16)
    for (const [at, x] of rows.values.entries()) merged.values[place(at)] = x
    const joint = await fitted(options, [merged])
    expect(joint.codebook.shape).toEqual([1, 8, 32, 4])
    const table = { shape: [1, 8, 32, 4], values: codebook.values }
    const asOne = await bound(options, table, { heads: 1, dim: 32 }, (quantizer) => through(quantizer, merged))
    expect(whole.back).toEqual(rows.values.map((_, at) => asOne.back[place(at)] ?? Number.NaN))
  })

  it('runs in a cache: calibrated, keys before RoPE, every token sealed at once', async () => {
    const run = calibrationRun()
    const compressor = coupledQuantization({ bits: 4 })
    const ready = await calibrate(compressor, run)
    const cache = openCache(model, ready)
    const step = (seed: number, n: number) => tensor3d(correlated(seed, [2, n, 16]).values, [2, n, 16])
    const [keys, values] = [step(30, 40), step(31, 40)]
    const queries = tensor3d(correlated(32, [4, 40, 16]).values, [4, 40, 16])
    cache.begin(new Int32Array(40), 'promptEnd')
    for (let layer = 0; layer < model.layers; layer++) dispose(await cache.attend(layer, { queries, keys, values }))
    await cache.commit()
    const sealed = { exact: 0, sealed: 40, sealedBitsPerValue: 1 }
    expect(cache.census(0)).toMatchObject({ keys: sealed, values: sealed, dead: 0 })
    const bytes = cache.bytes()
    // Two layers, two parts, two heads: 40 rows of four 4-bit codes, each in one word.
    expect(bytes.payload).toBe(2 * 2 * 2 * 40 * 4)
    expect(bytes.metadata).toBe(0)
    // The codebooks, and cosines and sines of 256 positions and eight pairs, since keys are stored before RoPE.
    expect(bytes.perModel).toBe(2 * 2 * 2 * 4 * 16 * 4 * 4 + 2 * 256 * 8 * 4)
    // Position 0 is not rotated: its stored key is a row of centroids.
    const stored = await cache.materialize(0)
    const codebook = ready.artifacts[0]?.tensors['0.keys.codebook']
    const first = ((await stored.keys.data()) as Float32Array).slice(0, 4)
    const centroids = Array.from({ length: 16 }, (_, i) => codebook?.values.slice(4 * i, 4 * i + 4).join())
    expect(centroids).toContain(first.join())
    dispose([keys, values, queries, stored.keys, stored.values])
    cache.dispose()
  })

  it('proposes the window of its options, by default none', () => {
    const none = { recent: 0, block: 1, drain: 'blocks' }
    expect(coupledQuantization().window).toEqual({ sinks: 0, keys: none, values: none })
    const some = { recent: 128, block: 1, drain: 'blocks' }
    expect(coupledQuantization({ sinks: 4, recent: 128 }).window).toEqual({ sinks: 4, keys: some, values: some })
  })

  it('refuses what does not fit', async () => {
    expect(() => coupledQuantization({ channels: 3 as never })).toThrow(OptionError)
    expect(() => coupledQuantization({ bits: 13 })).toThrow(OptionError)
    const options: Options = { bits: 4, sensitivity: 'none' }
    const { codebook } = await fitted(options, [rows])
    const bind = (o: Options, site: Partial<Site> = {}, artifact = artifactOf(codebook)) =>
      stageOf(o, 'keys').stage.bind({ ...siteOf(model, 0, 'keys'), ...site }, artifact)
    expect(() => bind({ ...options, channels: 6 })).toThrow(ModelMismatch)
    expect(() => bind({ ...options, bits: 5 })).toThrow(ArtifactMismatch)
    expect(() => bind({ ...options, channels: 8 })).toThrow(ArtifactMismatch)
    expect(() => bind(options, { heads: 3 })).toThrow(ArtifactMismatch)
    expect(() => bind(options, { firstHead: 2, heads: 1 })).toThrow(ArtifactMismatch)
    expect(() => bind(options, { layer: 1 })).toThrow(/no codebook for the keys of layer 1/)
  })
})

/** A model whose rows are known; nothing else is asked for. */
function calibrationRun(): CalibrationRun {
  const rowsOf = (layer: number) => ({
    keys: [correlated(40 + layer, [2, 200, 16])],
    values: [correlated(50 + layer, [2, 200, 16])],
  })
  const unused = (): never => {
    throw new Error('coupled-quantization needs rows and gradients only')
  }
  return {
    model,
    weights: { shape: model, names: unused, get: unused },
    rows: async (layer) => rowsOf(layer),
    gradients: async (layer) => {
      const { keys, values } = rowsOf(layer)
      return { keys: keys.map(squared), values: values.map(squared) }
    },
    hidden: unused,
    sentences: unused,
  }
}
