import { syntheticModel } from '@kvloom/conformance'
import { ModelMismatch, type ModelShape, type ModelWeights, OptionError, siteOf, stagesOn } from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { memory, setBackend, tensor } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { modifiedFrequencies } from './frequencies'
import { kvLatent } from './kv-latent'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })

type Options = NonNullable<Parameters<typeof kvLatent>[0]>

const model = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 16, valueDim: 12 })
const HIDDEN = 3

/** Weights whose numbers tell row and column: row + column / 1000. */
function weightsOf(shape: ModelShape, more: Readonly<Record<string, readonly number[]>> = {}): ModelWeights {
  const { queryHeads, kvHeads, keyDim, valueDim } = shape
  const shapes: Readonly<Record<string, readonly number[]>> = {
    'layers.1.attention.query': [queryHeads * keyDim, HIDDEN],
    'layers.1.attention.key': [kvHeads * keyDim, HIDDEN],
    'layers.1.attention.value': [kvHeads * valueDim, HIDDEN],
    'layers.1.attention.output': [HIDDEN, queryHeads * valueDim],
    'layers.1.mlp.up': [5, HIDDEN],
    ...more,
  }
  return {
    shape,
    names: () => Object.keys(shapes),
    async get(name) {
      const of = shapes[name]
      if (!of) throw new Error(`no weight ${name}`)
      const [rows = 0, columns = 1] = of
      return tensor(
        Float32Array.from({ length: rows * columns }, (_, i) => Math.floor(i / columns) + (i % columns) / 1000),
        [...of],
      )
    },
  }
}

function transformed(weights: ModelWeights, options: Options): ModelWeights {
  const [stage] = stagesOn(kvLatent(options), 'model', 1)
  const small = stage?.bind(siteOf(weights.shape, 1, 'keys')).transform?.(weights)
  if (!small) throw new Error('kv-latent transforms weights')
  return small
}

async function numbers(weights: ModelWeights, name: string): Promise<{ shape: number[]; data: number[] }> {
  const weight = await weights.get(name)
  const result = { shape: weight.shape, data: [...(await weight.data())] }
  weight.dispose()
  return result
}

describe('kv-latent', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('keeps whole pairs of queries and keys, in every head', async () => {
    const small = transformed(weightsOf(model), { keyDim: 6, valueDim: 12 })
    // 3 of 8 pairs: 0, 2, 5 and their other halves 8 channels on.
    const kept = [0, 2, 5, 8, 10, 13]
    for (const [name, heads] of [
      ['query', 4],
      ['key', 2],
    ] as const) {
      const { shape, data } = await numbers(small, `layers.1.attention.${name}`)
      expect(shape).toEqual([heads * 6, HIDDEN])
      const rows = data.filter((_, i) => i % HIDDEN === 0)
      expect(rows).toEqual(Array.from({ length: heads }, (_, head) => kept.map((c) => head * 16 + c)).flat())
    }
    expect([...(small.shape.rope?.frequencies ?? [])]).toEqual([0, 2, 5].map((j) => model.rope?.frequencies[j]))
    expect(small.shape).toMatchObject({ keyDim: 6, valueDim: 12, attentionScale: 1 / 4 })
    expect(await numbers(small, 'layers.1.attention.value')).toEqual(
      await numbers(weightsOf(model), 'layers.1.attention.value'),
    )
  })

  it('drops the same channels of values and of the output projection', async () => {
    const small = transformed(weightsOf(model), { keyDim: 16, valueDim: 5 })
    const kept = [0, 2, 4, 7, 9] // floor(j · 12 / 5)
    const values = await numbers(small, 'layers.1.attention.value')
    expect(values.shape).toEqual([2 * 5, HIDDEN])
    expect(values.data.filter((_, i) => i % HIDDEN === 0)).toEqual([0, 12].flatMap((at) => kept.map((c) => at + c)))
    const output = await numbers(small, 'layers.1.attention.output')
    expect(output.shape).toEqual([HIDDEN, 4 * 5])
    const columns = output.data.slice(0, 20).map((x) => Math.round(x * 1000))
    expect(columns).toEqual([0, 12, 24, 36].flatMap((at) => kept.map((c) => at + c)))
  })

  it('cuts biases, and leaves the output bias and other weights alone', async () => {
    const names = { query: 64, key: 32, value: 24, output: HIDDEN }
    const biases = Object.fromEntries(
      Object.entries(names).map(([name, n]) => [`layers.1.attention.${name}.bias`, [n]]),
    )
    const weights = weightsOf(model, biases)
    const small = transformed(weights, { keyDim: 8, valueDim: 6 })
    expect(small.names()).toEqual(weights.names())
    const sizes = { query: 32, key: 16, value: 12, output: HIDDEN }
    for (const [name, n] of Object.entries(sizes))
      expect((await numbers(small, `layers.1.attention.${name}.bias`)).shape).toEqual([n])
    expect((await numbers(small, 'layers.1.attention.key.bias')).data.slice(0, 6)).toEqual([0, 2, 4, 6, 8, 10])
    expect(await numbers(small, 'layers.1.mlp.up')).toEqual(await numbers(weights, 'layers.1.mlp.up'))
  })

  it('changes nothing but the fingerprint when everything is kept', async () => {
    const weights = weightsOf(model)
    const same = transformed(weights, { keyDim: 16, valueDim: 12 })
    const { fingerprint, ...shape } = same.shape
    const { fingerprint: before, ...expected } = model
    expect(shape).toEqual(expected)
    expect(fingerprint).not.toBe(before)
    for (const name of weights.names()) expect(await numbers(same, name)).toEqual(await numbers(weights, name))
  })

  it('halves heads unless told otherwise, and leaves no tensors behind', async () => {
    const before = memory().numTensors
    const small = transformed(weightsOf(model), {})
    for (const name of small.names()) await numbers(small, name)
    expect(small.shape).toMatchObject({ keyDim: 8, valueDim: 6 })
    expect(memory().numTensors).toBe(before)
  })

  it('has the logits of the old head without the dropped pairs', async () => {
    const channels = fc.array(fc.double({ min: -4, max: 4, noNaN: true }), { minLength: 16, maxLength: 16 })
    const evenDim = fc.integer({ min: 1, max: 8 }).map((pairs) => 2 * pairs)
    const position = fc.integer({ min: 0, max: 5000 })
    await fc.assert(
      fc.asyncProperty(channels, channels, evenDim, position, position, async (q, k, keyDim, t, n) => {
        const small = transformed(weightsOf(model), { keyDim })
        const rows = (await numbers(small, 'layers.1.attention.key')).data.filter((_, i) => i % HIDDEN === 0)
        const kept = rows.slice(0, keyDim)
        const masked = (x: readonly number[]) => x.map((each, c) => (kept.includes(c) ? each : 0))
        const cut = (x: readonly number[]) => kept.map((c) => x[c] ?? Number.NaN)
        const logit = (shape: ModelShape, a: readonly number[], b: readonly number[]) =>
          shape.attentionScale * dot(rotated(a, shape, t), rotated(b, shape, n))
        expect(logit(small.shape, cut(q), cut(k))).toBeCloseTo(logit(model, masked(q), masked(k)), 9)
      }),
      { numRuns: 50 },
    )
  })

  it('has fewer distances with a negative mean kernel on the modified grid', () => {
    const standard = (dim: number) => Float64Array.from({ length: dim / 2 }, (_, j) => 1e4 ** ((-2 * j) / dim))
    const negative = (frequencies: Float64Array) => {
      let count = 0
      for (let x = 0; x < 4096; x++) if (frequencies.reduce((sum, each) => sum + Math.cos(x * each), 0) < 0) count++
      return count / 4096
    }
    for (const [dim, before, after] of [
      [16, 0.3896, 0.2078],
      [32, 0.2542, 0.0815],
      [64, 0.1794, 0.0527],
    ] as const) {
      const frequencies = standard(dim)
      expect(negative(frequencies)).toBeCloseTo(before, 4)
      expect(negative(modifiedFrequencies({ dim, frequencies, attentionFactor: 1 }, dim))).toBeCloseTo(after, 4)
    }
  })

  it('takes the modified grid and its scale from the model’s base', () => {
    const wide = syntheticModel({ queryHeads: 1, kvHeads: 1, keyDim: 64, valueDim: 64 })
    const float32 = {
      ...wide,
      rope: wide.rope && { ...wide.rope, frequencies: wide.rope.frequencies.map(Math.fround) },
    }
    const { shape } = transformed(weightsOf(float32), { keyDim: 48, frequencies: 'modified' })
    expect(shape.attentionScale).toBe(1 / Math.sqrt(48))
    expect(shape.rope?.dim).toBe(48)
    const exponents = [12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47]
    shape.rope?.frequencies.forEach((each, j) => {
      expect(each / 1e4 ** (-(exponents[j] ?? 0) / 48)).toBeCloseTo(1, 6)
    })
  })

  it('refuses what does not fit', () => {
    expect(() => kvLatent({ keyDim: 7 })).toThrow(OptionError)
    expect(() => kvLatent({ keyDim: 6, frequencies: 'modified' })).toThrow(/a multiple of 4/)
    expect(() => kvLatent({ valueDim: 1.5 })).toThrow(OptionError)
    expect(() => transformed(weightsOf(model), { keyDim: 18 })).toThrow(ModelMismatch)
    expect(() => transformed(weightsOf(model), { valueDim: 13 })).toThrow(ModelMismatch)
    const partial = { ...model, rope: model.rope && { ...model.rope, dim: 8 } }
    expect(() => transformed(weightsOf(partial), {})).toThrow(/whole pairs/)
    const scaled = {
      ...model,
      rope: model.rope && { ...model.rope, frequencies: model.rope.frequencies.map(halfSlow) },
    }
    expect(() => transformed(weightsOf(scaled), { frequencies: 'modified' })).toThrow(/scaled/)
    expect(() => transformed(weightsOf(scaled), {})).not.toThrow()
    const normed = weightsOf(model, { 'layers.1.attention.keyNorm': [16] })
    expect(() => transformed(normed, { keyDim: 8 })).toThrow(ModelMismatch)
    expect(() => transformed(normed, { keyDim: 16, valueDim: 6 })).not.toThrow()
  })
})

const halfSlow = (frequency: number, pair: number): number => (pair < 4 ? frequency : frequency / 8)

const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((sum, x, i) => sum + x * (b[i] ?? 0), 0)

/** One row after RoPE. */
function rotated(x: readonly number[], { rope }: ModelShape, position: number): number[] {
  const half = x.length / 2
  return x.map((each, c) => {
    const angle = position * (rope?.frequencies[c % half] ?? 0)
    const other = x[(c + half) % x.length] ?? 0
    return each * Math.cos(angle) + (c < half ? -other : other) * Math.sin(angle)
  })
}
