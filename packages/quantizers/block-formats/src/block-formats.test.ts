import { syntheticModel, testCompressor } from '@kvloom/conformance'
import { ModelMismatch, OptionError, type Part, siteOf, stagesOn } from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { blockFormats } from './block-formats'

// The suite asks which shapes a method fits before any test runs, and tables need a backend.
await registerKernels('cpu')
await tf.setBackend('cpu')

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, { name: 'q8_0', make: () => blockFormats(), backends: ['wasm'] })
testCompressor(runner, { name: 'q4_1', make: () => blockFormats({ format: 'q4_1' }), backends: ['cpu'], decode: 20 })

type Format = NonNullable<NonNullable<Parameters<typeof blockFormats>[0]>['format']>
const FORMATS: readonly Format[] = ['q8_0', 'q5_1', 'q5_0', 'q4_1', 'q4_0']

const model = syntheticModel({ queryHeads: 2, kvHeads: 2, keyDim: 64, valueDim: 64 })

/** Rows `[2, n, 64]` through codes and back, and the names of what was stored. */
async function roundTrip(rows: tf.Tensor, format: Format, part: Part = 'values') {
  const [stage] = stagesOn(blockFormats({ format }), 'quantize', 0, part)
  if (!stage) throw new Error(`block-formats has no stage for ${part}`)
  const held: tf.Tensor[] = []
  const quantizer = stage.bind(
    siteOf(model, 0, part, ({ shape, values }) => {
      const table = tf.tensor(values, [...shape], 'float32')
      held.push(table)
      return table
    }),
  )
  const block = quantizer.encode(rows)
  const decoded = quantizer.decode(block, rows.shape[1] ?? 0)
  const values = ((await decoded.data()) as Float32Array).slice()
  const bytes = Object.values(block).reduce((sum, t) => sum + 4 * t.size, 0)
  tf.dispose([...Object.values(block), decoded, ...held])
  return { values, bytes, bits: quantizer.theoreticalBitsPerValue }
}

const squares = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((sum, x, i) => sum + (x - (b[i] ?? 0)) ** 2, 0) / a.length

describe('block-formats', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await tf.setBackend('wasm')
  })

  it.each(FORMATS)('%s holds what it states, on both parts', async (format) => {
    const rows = tf.randomNormal([2, 40, 64], 0, 1, 'float32', 5)
    for (const part of ['keys', 'values'] as const) {
      const { bytes, bits } = await roundTrip(rows, format, part)
      expect((bytes * 8) / rows.size).toBe(bits)
    }
    rows.dispose()
  })

  it('is off by at most one step, and a step where the largest number has no mirror', async () => {
    const numbers = fc.array(fc.float({ min: -900, max: 900, noNaN: true }), { minLength: 128, maxLength: 128 })
    await fc.assert(
      fc.asyncProperty(numbers, fc.constantFrom(...FORMATS), async (given, format) => {
        const rows = tf.tensor(Float32Array.from(given), [2, 1, 64])
        const { values } = await roundTrip(rows, format)
        rows.dispose()
        for (let block = 0; block < 4; block++) {
          const x = given.slice(block * 32, block * 32 + 32)
          const largest = Math.max(...x.map(Math.abs))
          const span = format.endsWith('1') ? Math.max(...x) - Math.min(...x) : 2 * largest
          const step = span / (2 ** Number(format[1]) - (format.endsWith('1') || format === 'q8_0' ? 2 : 0))
          // Half a step; a whole one at the end that the codes do not reach. Scales and minima are halves: 2^-11 of themselves.
          const slack = largest * 2 ** -10 + 2 ** -14
          x.forEach((v, i) => {
            expect(Math.abs((values[block * 32 + i] ?? Number.NaN) - v)).toBeLessThanOrEqual(step * 1.0001 + slack)
          })
        }
      }),
      { numRuns: 40 },
    )
  })

  it('gets better with every bit and with a minimum', async () => {
    const rows = tf.randomNormal([2, 64, 64], 0.5, 1, 'float32', 3)
    const x = await rows.data()
    const errors = new Map<Format, number>()
    for (const format of FORMATS) errors.set(format, squares(x, (await roundTrip(rows, format)).values))
    rows.dispose()
    const order = [...errors].sort((a, b) => a[1] - b[1]).map(([format]) => format)
    expect(order).toEqual(FORMATS)
  })

  it('gives zeros back as zeros', async () => {
    const rows = tf.zeros([2, 2, 64])
    for (const format of FORMATS) expect((await roundTrip(rows, format)).values.every((v) => v === 0)).toBe(true)
    rows.dispose()
  })

  it('leaves no exact row and acts on both parts after RoPE', () => {
    const { window, stages } = blockFormats({ format: 'q4_0' })
    expect(window).toMatchObject({ sinks: 0, keys: { recent: 0, block: 1 }, values: { recent: 0, block: 1 } })
    expect(stages.map((s) => s.on?.part)).toEqual(['keys', 'values'])
  })

  it('refuses unknown formats and heads that blocks do not divide', () => {
    expect(() => blockFormats({ format: 'q3_k' as Format })).toThrow(OptionError)
    const [stage] = stagesOn(blockFormats(), 'quantize', 0, 'keys')
    expect(() => stage?.bind({ ...siteOf(model, 0, 'keys'), dim: 80 })).toThrow(ModelMismatch)
  })
})
