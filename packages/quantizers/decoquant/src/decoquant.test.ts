import { syntheticModel, testCompressor } from '@kvloom/conformance'
import { ModelMismatch, OptionError, openCache, type Quantizer, ready, siteOf, stagesOn, window } from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { LARGEST_HALF, registerKernels } from '@kvloom/kernels'
import { matrix, multiply, seededRandom, transpose } from '@kvloom/math'
import { dispose, fill, memory, setBackend, tensor3d } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { decompose, quantizeRows } from './decompose'
import { decoquant } from './decoquant'

type Options = NonNullable<Parameters<typeof decoquant>[0]>

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, { name: 'decoquant, 4 bits', make: () => decoquant({ block: 16 }) })
testCompressor(runner, {
  name: 'decoquant, 2 bits, a rank below its channels, f32 factors',
  make: () => decoquant({ bits: 2, channels: 32, block: 1, metadata: 'f32' }),
  backends: ['wasm'],
  decode: 40,
})

const model = (kvHeads: number, dim: number) =>
  syntheticModel({ queryHeads: kvHeads, kvHeads, keyDim: dim, valueDim: dim })

function quantizer(options: Options, heads: number, dim: number): Quantizer {
  const [stage] = stagesOn(decoquant(options), 'quantize', 0, 'values')
  if (!stage) throw new Error('decoquant has no stage for values')
  return stage.bind(siteOf(model(heads, dim), 0, 'values'))
}

/** Rows `[1, n, dim]` through bits and back. */
function roundTrip(x: Float32Array, dim: number, options: Options): Float32Array {
  const n = x.length / dim
  const { encode, decode } = quantizer({ block: n, ...options }, 1, dim)
  const rows = tensor3d(x.slice(), [1, n, dim])
  const block = encode(rows)
  const decoded = decode(block, n)
  const back = decoded.dataSync<'float32'>().slice()
  dispose([rows, decoded, ...Object.values(block)])
  return back
}

function gaussian(count: number, seed: number, scale: (at: number) => number = () => 1): Float32Array {
  const random = seededRandom(seed)
  return Float32Array.from({ length: count }, (_, at) => scale(at) * random.gaussian())
}

function relativeError(x: Float32Array, y: Float32Array): number {
  let [difference, square] = [0, 0]
  x.forEach((value, at) => {
    difference += (value - (y[at] ?? Number.NaN)) ** 2
    square += value ** 2
  })
  return difference / square
}

describe('decompose', () => {
  it('gives factors whose product is the rows, with the singular values shared out evenly', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 9 }),
        fc.constantFrom([4, 1], [8, 8], [12, 4], [32, 16]),
        fc.integer({ min: 0, max: 1e6 }),
        (n, [dim = 1, channels = 1], seed) => {
          const x = gaussian(n * dim, seed)
          const { large, small, singular, rank } = decompose(x, channels)
          const pieces = x.length / channels
          expect(rank).toBe(Math.min(pieces, channels))
          const [left, right] = [matrix(pieces, rank, large), matrix(rank, channels, small)]
          // Singular values s come back as s² / (s + 1e-6).
          multiply(left, right).data.forEach((value, at) => {
            expect(Math.abs(value - (x[at] ?? 0))).toBeLessThan(1e-5)
          })
          for (const gauge of [multiply(transpose(left), left), multiply(right, transpose(right))])
            gauge.data.forEach((value, at) => {
              const [i, j] = [Math.floor(at / rank), at % rank]
              expect(Math.abs(value - (i === j ? (singular[i] ?? 0) : 0))).toBeLessThan(1e-5)
            })
        },
      ),
      { numRuns: 40 },
    )
  })

  it('takes rows that depend on each other, equal numbers and zeros', () => {
    for (const make of [() => 0, () => 3.5, (at: number) => (at % 16) - 7, (at: number) => Math.floor(at / 16)]) {
      const x = Float32Array.from({ length: 512 }, (_, at) => make(at))
      const { large, small, rank } = decompose(x, 16)
      multiply(matrix(32, rank, large), matrix(rank, 16, small)).data.forEach((value, at) => {
        expect(Math.abs(value - (x[at] ?? 0))).toBeLessThan(1e-5)
      })
    }
  })

  it('quantizes a row by its largest magnitude, ties to even, and a row of zeros to zeros', () => {
    const { levels, scales } = quantizeRows(Float64Array.of(7, -3.5, 2.5, 0.5, 0, 0, 0, 0), 2, 4, (scale) => scale)
    expect([...levels]).toEqual([7, -4, 2, 0, 0, 0, 0, 0])
    expect([...scales]).toEqual([1, Math.fround(1e-5 / 7)])
    // A stored scale below the exact one must not lead beyond the largest level.
    expect([...quantizeRows(Float64Array.of(1, -1), 1, 2, (scale) => 0.6 * scale).levels]).toEqual([1, -1])
  })
})

describe('decoquant', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('does not depend on the sign of rows, of channels or of all', () => {
    const x = gaussian(32 * 64, 1)
    const back = roundTrip(x, 64, { metadata: 'f32' })
    const mirrored = roundTrip(
      x.map((v) => -v),
      64,
      { metadata: 'f32' },
    )
    mirrored.forEach((value, at) => {
      expect(value).toBeCloseTo(-(back[at] ?? 0), 5)
    })
  })

  it('puts outlier channels that come again in every piece into the small factor', () => {
    const outliers = gaussian(64 * 128, 2, (at) => (at % 16 === 3 ? 20 : 1))
    const error = (channels: number) => {
      const back = roundTrip(outliers, 128, { channels })
      const small = (x: Float32Array) => x.filter((_, at) => at % 16 !== 3)
      return relativeError(small(outliers), small(back))
    }
    expect(error(16)).toBeLessThan(error(1) / 5)
    // Without such channels there is nothing to gain, nor to lose.
    const plain = gaussian(64 * 128, 3)
    const ratio =
      relativeError(plain, roundTrip(plain, 128, {})) / relativeError(plain, roundTrip(plain, 128, { channels: 1 }))
    expect(Math.abs(ratio - 1)).toBeLessThan(0.1)
  })

  it('gets better with every bit, and halves cost it next to nothing', () => {
    const x = gaussian(32 * 64, 4)
    const errors = [2, 3, 4, 5, 6, 7, 8].map((bits) => relativeError(x, roundTrip(x, 64, { bits })))
    for (let i = 1; i < errors.length; i++) expect(errors[i]).toBeLessThan((errors[i - 1] ?? 0) / 2.5)
    for (const [i, bits] of [2, 4, 8].entries())
      expect(
        (errors[[0, 2, 6][i] ?? 0] ?? 0) / relativeError(x, roundTrip(x, 64, { bits, metadata: 'f32' })),
      ).toBeLessThan(1.05)
  })

  it('has three levels at 2 bits', () => {
    const x = gaussian(4 * 16, 5)
    const back = roundTrip(x, 16, { bits: 2, channels: 1, metadata: 'f32' })
    for (let row = 0; row < 4; row++) {
      const sizes = new Set([...back.subarray(row * 16, (row + 1) * 16)].map((v) => Math.abs(v).toFixed(5)))
      expect(sizes.size).toBeLessThanOrEqual(2)
    }
  })

  it('gives zeros and equal numbers back', () => {
    expect(roundTrip(new Float32Array(256), 32, {})).toEqual(new Float32Array(256))
    for (const value of [1, -300, 60000]) {
      const x = new Float32Array(256).fill(value)
      expect(relativeError(x, roundTrip(x, 32, {}))).toBeLessThan(1e-6)
    }
    // A row of zeros among others, and a row a thousand times as large.
    const x = gaussian(8 * 32, 6, (at) => (Math.floor(at / 32) === 2 ? 0 : Math.floor(at / 32) === 5 ? 1000 : 1))
    const back = roundTrip(x, 32, { bits: 8 })
    expect([...back.subarray(64, 96)].every((v) => v === 0)).toBe(true)
    expect(relativeError(x, back)).toBeLessThan(1e-3)
  })

  it('packs blocks as it packs each alone, and frees what it used', () => {
    const x = gaussian(12 * 32, 7)
    const [whole, alone] = [quantizer({ block: 4 }, 1, 32), quantizer({ block: 4 }, 1, 32)]
    const rows = tensor3d(x.slice(), [1, 12, 32])
    const block = whole.encode(rows)
    const decoded = whole.decode(block, 12)
    const together = decoded.dataSync<'float32'>().slice()
    dispose([rows, decoded, ...Object.values(block)])
    for (let first = 0; first < 12; first += 4) {
      const part = tensor3d(x.slice(first * 32, (first + 4) * 32), [1, 4, 32])
      const own = alone.encode(part)
      const back = alone.decode(own, 4)
      expect([...back.dataSync()]).toEqual([...together.subarray(first * 32, (first + 4) * 32)])
      dispose([part, back, ...Object.values(own)])
    }
  })

  it('holds what the bits say', async () => {
    const shapes = (options: Options, heads: number, dim: number, n: number) => {
      const { encode, mergedHeads } = quantizer(options, heads, dim)
      expect(mergedHeads).toBe(heads > 1 ? true : undefined)
      const rows = fill([1, n, heads * dim], 1)
      const block = encode(rows)
      const found = Object.fromEntries(Object.entries(block).map(([name, t]) => [name, t.shape]))
      dispose([rows, ...Object.values(block)])
      return found
    }
    // Attention reads it as it is stored, unless a block has fewer pieces than a piece has channels.
    expect(quantizer({ block: 8 }, 3, 64).layout).toMatchObject({ kind: 'codebook', scale: 'map', group: 16, block: 8 })
    expect(quantizer({ block: 1, channels: 32 }, 3, 64).layout).toMatchObject({ kind: 'custom' })
    // 192 codes of 4 bits a token; halves of scales and of the small factor share words.
    expect(shapes({ block: 8 }, 3, 64, 16)).toEqual({ codes: [1, 16, 24], metadata: [1, 2, 4], maps: [1, 2, 128] })
    expect(shapes({ block: 8, metadata: 'f32' }, 3, 64, 8)).toEqual({
      codes: [1, 8, 24],
      metadata: [1, 1, 8],
      maps: [1, 1, 256],
    })
    // One token has 12 pieces of 16 channels: rank 12.
    expect(shapes({ block: 1, bits: 3 }, 3, 64, 2)).toEqual({
      codes: [1, 2, 14],
      metadata: [1, 2, 1],
      maps: [1, 2, 96],
    })
    expect(quantizer({ block: 128 }, 3, 64).theoreticalBitsPerValue).toBeCloseTo(
      4 + 16 / 192 + (16 * 256) / (128 * 192),
      12,
    )
    expect(quantizer({ block: 1, metadata: 'f32' }, 3, 64).theoreticalBitsPerValue).toBeCloseTo(
      (4 * 144 + 32 + 32 * 192) / 192,
      12,
    )
  })

  it('keeps rows exact until a block is whole', async () => {
    const before = memory().numBytes
    const shape = model(2, 32)
    const cache = openCache(shape, ready(decoquant({ block: 8 })))
    for (const [tokens, sealed] of [
      [3, 0],
      [4, 0],
      [1, 8],
      [17, 24],
    ] as const) {
      cache.begin(new Int32Array(tokens), 'promptEnd')
      for (let layer = 0; layer < shape.layers; layer++) {
        const x = tensor3d(gaussian(2 * tokens * 32, tokens + layer), [2, tokens, 32])
        dispose([await cache.attend(layer, { queries: x, keys: x, values: x }), x])
      }
      await cache.commit()
      expect(cache.census(1)).toMatchObject({ keys: { sealed }, values: { sealed }, dead: 0 })
    }
    // 24 sealed rows of 64 codes of 4 bits, in two parts of every layer.
    expect(cache.bytes().payload).toBe(2 * shape.layers * 24 * 32)
    cache.dispose()
    expect(memory().numBytes).toBe(before)
  })

  it('refuses rows beyond the range of its halves, and gives those within it back', async () => {
    const n = 16
    const { largest = 0 } = quantizer({ block: n }, 1, 32)
    expect(largest).toBeCloseTo(LARGEST_HALF ** 2 / Math.sqrt(n * 32), -3)
    const x = new Float32Array(n * 32).fill(largest)
    expect(relativeError(x, roundTrip(x, 32, {}))).toBeLessThan(1e-6)
    const spike = gaussian(n * 32, 8, (at) => (at === 77 ? 1e9 : 1))
    spike[77] = largest
    expect(roundTrip(spike, 32, {}).every(Number.isFinite)).toBe(true)
    const f32 = quantizer({ block: n, metadata: 'f32' }, 1, 32).largest ?? 0
    const huge = gaussian(n * 32, 9).map((v) => (v > 0 ? f32 : -f32))
    expect(roundTrip(huge, 32, { metadata: 'f32' }).every(Number.isFinite)).toBe(true)

    const cache = openCache(model(2, 32), ready(window({ store: 'f32' }, decoquant({ block: n }))))
    const row = fill([2, n, 32], 2 * largest)
    cache.begin(new Int32Array(n), 'promptEnd')
    try {
      await expect(cache.attend(0, { queries: row, keys: row, values: row })).rejects.toThrow(
        /the most that the metadata of decoquant holds.*metadata: 'f32' holds larger numbers/,
      )
    } finally {
      row.dispose()
      cache.dispose()
    }
  })

  it('refuses what does not fit', () => {
    expect(() => decoquant({ bits: 1 })).toThrow(OptionError)
    expect(() => decoquant({ bits: 9 })).toThrow(OptionError)
    expect(() => decoquant({ block: 0 })).toThrow(OptionError)
    expect(() => decoquant({ channels: 65 })).toThrow(OptionError)
    expect(() => quantizer({ channels: 48 }, 1, 64)).toThrow(ModelMismatch)
    expect(() => quantizer({ channels: 48 }, 3, 64)).not.toThrow()
  })
})
