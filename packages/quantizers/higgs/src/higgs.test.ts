import { SHAPES, syntheticModel, testCompressor } from '@kvloom/conformance'
import {
  type HostTensor,
  type KVCompressor,
  ModelMismatch,
  type ModelShape,
  OptionError,
  openCache,
  type Part,
  siteOf,
  stagesOn,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { dispose, fill, randomNormal, setBackend, type Tensor, tensor, tensor3d, zeros } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { grid } from './grids'
import { higgs, higgsQuantizer } from './higgs'

type Options = NonNullable<Parameters<typeof higgs>[0]>

// The suite asks which shapes fit while it declares its tests, and binding uploads the grid.
await registerKernels('cpu')
await setBackend('cpu')

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, {
  name: 'higgs, 2 bits, blocks within a head',
  make: () => higgs({ group: 16, sinks: 2, block: 16 }),
})
testCompressor(runner, {
  name: 'higgs, 4 bits, blocks as large as fit, f32 norms',
  make: () => higgs({ bits: 4, metadata: 'f32', sinks: 2, recent: 3, block: 16 }),
  backends: ['wasm'],
})
testCompressor(runner, {
  name: 'higgs, vectors of 6 values, padded',
  make: () => higgs({ vector: 6, group: 256, sinks: 0, block: 20 }),
  backends: ['wasm'],
  decode: 30,
})
// Norms of two rows share a word, and every sealing begins at a whole one.
testCompressor(runner, {
  name: 'higgs, one row at a time',
  make: () => higgs({ group: 16, sinks: 2, block: 1 }),
  backends: ['wasm'],
  shapes: SHAPES.slice(0, 1),
  decode: 30,
})

const model = (kvHeads: number, dim: number): ModelShape =>
  syntheticModel({ queryHeads: kvHeads, kvHeads, keyDim: dim, valueDim: dim })

function quantizer(options: Options, heads: number, dim: number, part: Part = 'keys') {
  const [stage] = stagesOn(higgs(options), 'quantize', 0, part)
  if (!stage) throw new Error(`higgs has no stage for ${part}`)
  return stage.bind(siteOf(model(heads, dim), 0, part))
}

/** `[heads, rows, dim]` through codes and back. */
async function roundTrip(rows: Tensor, options: Options): Promise<Float32Array> {
  const [heads = 0, n = 0, dim = 0] = rows.shape
  const { encode, decode } = quantizer(options, heads, dim)
  const block = encode(rows)
  const decoded = decode(block, n)
  const values = ((await decoded.data()) as Float32Array).slice()
  dispose([...Object.values(block), decoded])
  return values
}

function relativeError(x: ArrayLike<number>, y: ArrayLike<number>): number {
  let [difference, square] = [0, 0]
  for (let i = 0; i < x.length; i++) {
    difference += (x[i]! - y[i]!) ** 2
    square += x[i]! ** 2
  }
  return difference / square
}

/** One head of 8 rows of 32 channels. */
const rows8 = fc
  .array(fc.float({ min: -1000, max: 1000, noNaN: true }), { minLength: 256, maxLength: 256 })
  .map((x) => Float32Array.from(x))

describe('higgs', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('scales with its input, exactly, for powers of two', async () => {
    await fc.assert(
      fc.asyncProperty(rows8, fc.integer({ min: -6, max: 6 }), async (x, power) => {
        // Numbers of this grid stay normal in f32 when scaled.
        const even = x.map((v) => Math.round(v * 256) / 256)
        const [a, b] = [
          tensor3d(even.slice(), [1, 8, 32]),
          tensor3d(
            even.map((v) => v * 2 ** power),
            [1, 8, 32],
          ),
        ]
        const options: Options = { group: 16, metadata: 'f32' }
        const [one, other] = [await roundTrip(a, options), await roundTrip(b, options)]
        dispose([a, b])
        expect([...other]).toEqual([...one.map((v) => v * 2 ** power)])
      }),
      { numRuns: 20 },
    )
  })

  it('encodes a row the same whatever rows stand beside it', async () => {
    const rows = randomNormal([1, 33, 64], 0, 1, 'float32', 5)
    const x = (await rows.data()) as Float32Array
    const whole = await roundTrip(rows, {})
    for (const row of [0, 7, 32]) {
      const alone = tensor3d(x.slice(row * 64, (row + 1) * 64), [1, 1, 64])
      expect(await roundTrip(alone, {})).toEqual(whole.slice(row * 64, (row + 1) * 64))
      alone.dispose()
    }
    rows.dispose()
  })

  it('makes the same of heads one by one and side by side', async () => {
    const heads = randomNormal([3, 20, 64], 0, 1, 'float32', 6)
    const x = (await heads.data()) as Float32Array
    const merged = new Float32Array(x.length)
    for (let head = 0; head < 3; head++)
      for (let row = 0; row < 20; row++)
        merged.set(x.subarray((head * 20 + row) * 64, (head * 20 + row + 1) * 64), (row * 3 + head) * 64)
    const side = tensor3d(merged, [1, 20, 192])
    const [each, all] = [await roundTrip(heads, { group: 64 }), await roundTrip(side, { group: 64 })]
    for (let head = 0; head < 3; head++)
      for (let row = 0; row < 20; row++)
        expect(all.slice((row * 3 + head) * 64, (row * 3 + head + 1) * 64)).toEqual(
          each.slice((head * 20 + row) * 64, (head * 20 + row + 1) * 64),
        )
    dispose([heads, side])
  })

  it('chooses the block: per head, over heads, padded', () => {
    expect(quantizer({ group: 64 }, 3, 64)).toMatchObject({ layout: { kind: 'codebook', group: 64, hadamard: 64 } })
    expect(quantizer({ group: 64 }, 3, 64).mergedHeads).toBe(undefined)
    expect(quantizer({}, 3, 64)).toMatchObject({ layout: { kind: 'codebook', group: 64 } })
    expect(quantizer({}, 8, 128)).toMatchObject({ layout: { kind: 'codebook', group: 1024 }, mergedHeads: true })
    expect(quantizer({}, 16, 128)).toMatchObject({ layout: { kind: 'codebook', group: 1024 }, mergedHeads: true })
    expect(quantizer({ group: 64 }, 4, 80)).toMatchObject({
      layout: { kind: 'codebook', group: 64 },
      mergedHeads: true,
    })
    expect(quantizer({ group: 256 }, 3, 64)).toMatchObject({ layout: { kind: 'custom' }, mergedHeads: true })
    // Under a predictor the heads are one row already.
    expect(quantizer({ group: 256 }, 1, 192).mergedHeads).toBe(undefined)
  })

  it('holds what the bits say: codes, norms, and the zeros behind a row', () => {
    const stored = (options: Options, heads: number, dim: number): Record<string, number[]> => {
      const { encode, mergedHeads } = quantizer(options, heads, dim)
      const rows = zeros(mergedHeads ? [1, 5, heads * dim] : [heads, 5, dim])
      const block = encode(rows)
      const shapes = Object.fromEntries(Object.entries(block).map(([name, t]) => [name, [...t.shape]]))
      dispose([rows, ...Object.values(block)])
      return shapes
    }
    // 192 codes of 2 bits · 2 values fill 6 words a head of 64; norms of two rows go to a word.
    expect(stored({ group: 64 }, 3, 64)).toEqual({ codes: [3, 5, 4], metadata: [3, 3, 1] })
    expect(stored({ group: 32 }, 3, 64)).toEqual({ codes: [3, 5, 4], metadata: [3, 3, 2] })
    expect(stored({ group: 128, bits: 3 }, 4, 64)).toEqual({ codes: [1, 5, 24], metadata: [1, 3, 2] })
    expect(stored({ group: 256 }, 3, 64)).toEqual({ codes: [1, 5, 16], metadata: [1, 3, 1] })
    const padded = (metadata: 'f16' | 'f32') => quantizer({ group: 256, metadata }, 3, 64).layout
    expect(padded('f16')).toMatchObject({ fields: { metadata: { counts: 'metadata', rowsPerUnit: 2 } } })
    expect(padded('f32')).toMatchObject({ fields: { metadata: { counts: 'metadata', rowsPerUnit: 1 } } })
    expect(stored({ group: 64, metadata: 'f32' }, 3, 64)).toEqual({ codes: [3, 5, 4], metadata: [3, 5, 1] })
  })

  it.each<[bits: number, vector: 1 | 2 | 4 | 6 | 8, error: number]>([
    [1, 8, 0.3208],
    [2, 2, 0.1076],
    [2, 4, 0.0964],
    [2, 6, 0.0917],
    [3, 2, 0.0296],
    [4, 2, 0.00774],
    [4, 1, 0.0095],
    [8, 1, 4.12e-5],
  ])('has the error of its grid on Gaussian data: %i bits, vectors of %i', async (bits, vector, expected) => {
    const rows = randomNormal([1, 96, 1024], 0, 1, 'float32', 7)
    const x = (await rows.data()) as Float32Array
    const back = await roundTrip(rows, { bits, vector, group: 1024, metadata: 'f32' })
    rows.dispose()
    const error = relativeError(x, back)
    expect(Math.abs(error / expected - 1)).toBeLessThan(0.03) // 98,304 numbers
    // Reconstructions at the mean of their cells: |x'|² = |x|² (1 - error).
    const [length, kept] = [x, back].map((v) => v.reduce((sum, value) => sum + value * value, 0))
    expect(Math.abs(kept! / length! - (1 - error))).toBeLessThan(0.01)
  })

  it('gets better with every bit', async () => {
    const rows = randomNormal([2, 64, 64], 0, 1, 'float32', 9)
    const x = (await rows.data()) as Float32Array
    for (const vector of [1, 2] as const) {
      const errors: number[] = []
      for (const bits of [2, 3, 4]) errors.push(relativeError(x, await roundTrip(rows, { bits, vector, group: 64 })))
      expect(errors).toEqual([...errors].sort((a, b) => b - a))
    }
    rows.dispose()
  })

  it('gives back zeros for a row of zeros, and refuses nothing within its range', async () => {
    const { largest = 0 } = quantizer({ group: 64 }, 1, 64)
    const x = new Float32Array(3 * 64)
    x.fill(largest, 64, 128)
    const rows = tensor3d(x, [1, 3, 64])
    const back = await roundTrip(rows, { group: 64 })
    rows.dispose()
    expect([...back.slice(0, 64), ...back.slice(128)].every((v) => v === 0)).toBe(true)
    expect(back.every(Number.isFinite)).toBe(true)
  })

  it('uploads a grid once for all layers', () => {
    const seen = new Set<HostTensor['values']>()
    const [keys, values] = [stagesOn(higgs(), 'quantize', 0, 'keys'), stagesOn(higgs(), 'quantize', 0, 'values')]
    for (const [stage] of [keys, values])
      for (const layer of [0, 1])
        stage?.bind(
          siteOf(model(2, 64), layer, 'keys', ({ shape, values: table }) => {
            seen.add(table)
            return tensor(table, [...shape])
          }),
        )
    expect(seen.size).toBe(1)
  })

  it('takes any table', async () => {
    // A grid of two points in one dimension: signs, times the root mean square.
    const table: HostTensor = { shape: [2, 1], values: Float32Array.of(-1, 1) }
    const signs = higgsQuantizer({ table, group: 2, metadata: 'f32' }, siteOf(model(1, 2), 0, 'values'))
    const rows = tensor3d([3, 1, 1, -3], [1, 2, 2])
    const block = signs.encode(rows)
    const back = signs.decode(block, 2)
    // H (3, 1) = (4, 2), both positive: |x| H (1, 1) / 2 = (|x|, 0). H (1, -3) = (-2, 4): |x| H (-1, 1) / 2 = (0, -|x|).
    expect([...(await back.data())].map((v) => Math.round(v * 1e4) / 1e4)).toEqual([3.1623, 0, 0, -3.1623])
    dispose([rows, back, ...Object.values(block)])
  })

  it('refuses what its norms cannot hold, and takes it with the cure that it names', async () => {
    const shape = model(2, 64)
    const row = fill([2, 1, 64], 12_000)
    const stored = async (compressor: KVCompressor) => {
      const cache = openCache(shape, compressor)
      try {
        cache.begin(new Int32Array(1), 'decode')
        ;(await cache.attend(0, { queries: fill([shape.queryHeads, 1, 64], 1), keys: row, values: row })).dispose()
        return 'stored'
      } catch (error) {
        return String(error)
      } finally {
        cache.dispose()
      }
    }
    const refused = /the most that the metadata of higgs holds; .*metadata: 'f32' holds larger numbers/
    expect(await stored(higgs({ group: 64 }))).toMatch(refused)
    expect(await stored(window({ store: 'f32' }, higgs({ group: 64 })))).toMatch(refused)
    expect(await stored(higgs({ group: 64, metadata: 'f32' }))).toBe('stored')
    row.dispose()
  })

  it('states the bits of codes, norms and padding', () => {
    expect(quantizer({ group: 64 }, 3, 64).theoreticalBitsPerValue).toBe(2.25)
    expect(quantizer({ group: 64, bits: 4, metadata: 'f32' }, 3, 64).theoreticalBitsPerValue).toBe(4.5)
    expect(quantizer({ group: 256 }, 3, 64).theoreticalBitsPerValue).toBe(2.75)
    expect(quantizer({ group: 64, vector: 6 }, 3, 64).theoreticalBitsPerValue).toBe(2.3125)
    expect(quantizer({}, 8, 128).theoreticalBitsPerValue).toBe(2 + 16 / 1024)
    expect(higgs({ recent: 64, sinks: 1 }).window).toEqual({
      sinks: 1,
      keys: { recent: 64, block: 128, drain: 'all' },
      values: { recent: 64, block: 128, drain: 'all' },
    })
  })

  it('refuses what does not fit', () => {
    expect(() => higgs({ bits: 5 })).toThrow(/d2n16/)
    expect(() => higgs({ bits: 3, vector: 4 })).toThrow(OptionError)
    expect(() => higgs({ group: 48 })).toThrow(OptionError)
    expect(() => higgs({ recent: 0.5 })).toThrow(OptionError)
    expect(() => quantizer({}, 3, 20)).toThrow(ModelMismatch)
    expect(() => quantizer({}, 3, 20)).toThrow(/group: 64/)
    expect(quantizer({ group: 64 }, 3, 20).theoreticalBitsPerValue).toBe((32 * 4 + 16) / 60)
  })

  it('knows its grids by name', () => {
    const table = grid('d6n4096')
    expect(table?.shape).toEqual([4096, 6])
    expect(grid('d2n17')).toBe(undefined)
    expect(grid('toString')).toBe(undefined)
  })
})
