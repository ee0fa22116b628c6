import { syntheticModel, testCompressor } from '@kvloom/conformance'
import {
  compose,
  IncompatibleStages,
  ModelMismatch,
  OptionError,
  openCache,
  type Part,
  ready,
  siteOf,
  stagesOn,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { dispose, fill, randomNormal, setBackend, type Tensor, tensor3d, zeros } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { kivi } from './kivi'

type Options = NonNullable<Parameters<typeof kivi>[0]>

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, { name: 'kivi, 2 bits', make: () => kivi({ group: 16, residual: 32 }) })
testCompressor(runner, {
  name: 'kivi, 3 and 4 bits, f32 metadata',
  make: () => kivi({ keyBits: 3, valueBits: 4, residual: 32, metadata: 'f32' }),
  backends: ['wasm'],
})

const model = syntheticModel({ queryHeads: 2, kvHeads: 2, keyDim: 64, valueDim: 64 })

function quantizer(part: Part, options: Options = {}, dim = 64) {
  const [stage] = stagesOn(kivi(options), 'quantize', 0, part)
  if (!stage) throw new Error(`kivi has no stage for ${part}`)
  return stage.bind({ ...siteOf(model, 0, part), heads: 2, dim })
}

/** `[heads, rows, dim]` through codes and back. */
async function roundTrip(rows: Tensor, part: Part, options: Options): Promise<Float32Array> {
  const { encode, decode } = quantizer(part, options, rows.shape[2])
  const block = encode(rows)
  const decoded = decode(block, rows.shape[1] ?? 0)
  const values = (await decoded.data()) as Float32Array
  const copy = values.slice()
  dispose([...Object.values(block), decoded])
  return copy
}

const meanSquare = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += ((a[i] ?? 0) - (b[i] ?? 0)) ** 2
  return sum / a.length
}

const bits = fc.integer({ min: 1, max: 8 })
const part = fc.constantFrom<Part>('keys', 'values')
/** Two heads of 16 rows of 16 channels; group 8. */
const rows16 = fc
  .array(fc.float({ min: -1000, max: 1000, noNaN: true }), { minLength: 512, maxLength: 512 })
  // Subnormal numbers are left out: a scale of a third of one is no f32, and the bound is one of normal arithmetic.
  .map((x) => Float32Array.from(x, (v) => (Math.abs(v) < 2 ** -120 ? 0 : v)))
const shape: [number, number, number] = [2, 16, 16]

/** Elements of the group that holds element (head, row, channel). */
function groupOf(x: Float32Array, along: Part, head: number, row: number, channel: number): number[] {
  const first = (i: number) => i - (i % 8)
  return Array.from({ length: 8 }, (_, i) =>
    along === 'keys'
      ? x[(head * 16 + first(row) + i) * 16 + channel]!
      : x[(head * 16 + row) * 16 + first(channel) + i]!,
  )
}

describe('kivi', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('is off by at most half a step', async () => {
    await fc.assert(
      fc.asyncProperty(rows16, bits, part, async (x, bits, part) => {
        const rows = tensor3d(x.slice(), shape)
        const back = await roundTrip(rows, part, { bits, group: 8, residual: 8, metadata: 'f32' })
        rows.dispose()
        for (let at = 0; at < x.length; at++) {
          const group = groupOf(x, part, Math.floor(at / 256), Math.floor(at / 16) % 16, at % 16)
          const span = Math.max(...group) - Math.min(...group)
          const slack = 4e-7 * Math.max(...group.map(Math.abs)) // f32: four roundings
          expect(Math.abs(back[at]! - x[at]!)).toBeLessThanOrEqual(span / (2 ** bits - 1) / 2 + slack)
        }
      }),
      { numRuns: 30 },
    )
  })

  it('gives heads the same codes in any order', async () => {
    await fc.assert(
      fc.asyncProperty(rows16, bits, part, async (x, bits, part) => {
        const swapped = Float32Array.from([...x.subarray(256), ...x.subarray(0, 256)])
        const [a, b] = [tensor3d(x.slice(), shape), tensor3d(swapped, shape)]
        const options = { bits, group: 8, residual: 8 }
        const [one, other] = [await roundTrip(a, part, options), await roundTrip(b, part, options)]
        dispose([a, b])
        expect([...other.subarray(256), ...other.subarray(0, 256)]).toEqual([...one])
      }),
      { numRuns: 20 },
    )
  })

  it('scales with its input, exactly, for powers of two', async () => {
    await fc.assert(
      fc.asyncProperty(rows16, bits, part, fc.integer({ min: -6, max: 6 }), async (x, bits, part, power) => {
        // Numbers of this grid stay normal in f32 when scaled.
        const grid = x.map((v) => Math.round(v * 256) / 256)
        const [a, b] = [
          tensor3d(grid.slice(), shape),
          tensor3d(
            grid.map((v) => v * 2 ** power),
            shape,
          ),
        ]
        const options: Options = { bits, group: 8, residual: 8, metadata: 'f32' }
        const [one, other] = [await roundTrip(a, part, options), await roundTrip(b, part, options)]
        dispose([a, b])
        expect([...other]).toEqual([...one.map((v) => v * 2 ** power)])
      }),
      { numRuns: 20 },
    )
  })

  it('gets better with every bit', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 1e6 }), part, async (seed, part) => {
        const rows = randomNormal([2, 64, 64], 0, 1, 'float32', seed)
        const x = (await rows.data()) as Float32Array
        const errors: number[] = []
        for (let bits = 1; bits <= 8; bits++) errors.push(meanSquare(x, await roundTrip(rows, part, { bits })))
        rows.dispose()
        for (let i = 1; i < errors.length; i++) expect(errors[i]).toBeLessThan(errors[i - 1]!)
      }),
      { numRuns: 5 },
    )
  })

  it.each([
    [2, 32, 0.1543],
    [3, 32, 0.0281],
    [4, 32, 0.00611],
    [2, 64, 0.2027],
  ])('has the known error on Gaussian data: %i bits, group %i', async (bits, group, expected) => {
    const rows = randomNormal([4, 512, 128], 0, 1, 'float32', 7)
    const x = (await rows.data()) as Float32Array
    for (const part of ['keys', 'values'] as const) {
      const error = meanSquare(x, await roundTrip(rows, part, { bits, group, residual: group }))
      expect(Math.abs(error / expected - 1)).toBeLessThan(0.03) // 262,144 numbers
    }
    rows.dispose()
  })

  it('gives the codes of the paper’s formula', async () => {
    const rows = tensor3d([-1, -0.2, 0.3, 1], [1, 4, 1])
    const block = quantizer('keys', { group: 4, residual: 4, metadata: 'f32' }, 1).encode(rows)
    expect([...((await block['words']?.data()) ?? [])]).toEqual([0b11100100])
    const constant = tensor3d([7.3, 7.3, 7.3, 7.3], [1, 4, 1])
    expect([...(await roundTrip(constant, 'keys', { group: 4, residual: 4, metadata: 'f32' }))]).toEqual([
      ...(await constant.data()),
    ])
  })

  it('holds the zones of the paper after every token', async () => {
    const residual = 32
    const cache = openCache(model, ready(kivi({ residual })))
    for (let t = 1; t <= 3 * residual + 1; t++) {
      cache.begin(new Int32Array(1), t === 1 ? 'promptEnd' : 'decode')
      for (let layer = 0; layer < model.layers; layer++) {
        const row = zeros([2, 1, 64])
        dispose([await cache.attend(layer, { queries: row, keys: row, values: row }), row])
      }
      await cache.commit()
      const sealedKeys = residual * Math.floor(t / residual)
      const sealedValues = Math.max(0, t - residual)
      expect(cache.census(1)).toMatchObject({
        keys: { exact: t - sealedKeys, sealed: sealedKeys },
        values: { exact: t - sealedValues, sealed: sealedValues },
        dead: 0,
      })
    }
    cache.dispose()
  })

  it('refuses rows beyond the range of its metadata', async () => {
    const cache = openCache(model, ready(window({ store: 'f32' }, kivi({ residual: 32 }))))
    const row = fill([2, 33, 64], 1e5)
    cache.begin(new Int32Array(33), 'promptEnd')
    try {
      await expect(cache.attend(0, { queries: row, keys: row, values: row })).rejects.toThrow(
        /the most that the metadata of kivi holds.*metadata: 'f32' holds larger numbers/,
      )
    } finally {
      row.dispose()
      cache.dispose()
    }
  })

  it('states the bits of its codes and metadata', () => {
    expect(quantizer('keys').theoreticalBitsPerValue).toBe(3)
    expect(quantizer('values', { bits: 4, group: 64 }).theoreticalBitsPerValue).toBe(4.5)
    expect(quantizer('values', { metadata: 'f32' }).theoreticalBitsPerValue).toBe(4)
    expect(quantizer('keys', { keyBits: 4 }).theoreticalBitsPerValue).toBe(5)
  })

  it('refuses what does not fit', () => {
    expect(() => kivi({ bits: 5.5 })).toThrow(OptionError)
    expect(() => kivi({ bits: 9 })).toThrow(OptionError)
    expect(() => kivi({ valueBits: -1 })).toThrow(OptionError)
    expect(() => kivi({ residual: 100 })).toThrow(/a multiple of group \(32\)/)
    expect(() => quantizer('values', {}, 80)).toThrow(ModelMismatch)
    expect(() => quantizer('keys', {}, 80)).not.toThrow()
    expect(() => compose(kivi(), kivi({ bits: 4 }))).toThrow(IncompatibleStages)
  })
})
