import { SHAPES, syntheticModel, testCompressor } from '@kvloom/conformance'
import {
  compose,
  definePick,
  defineQuantizer,
  defineScorer,
  foldSpace,
  type HostTensor,
  IncompatibleStages,
  keySide,
  OptionError,
  type Part,
  siteOf,
  stagesOn,
  upload,
  window,
} from '@kvloom/core'
import { testGolden } from '@kvloom/golden'
import { registerKernels } from '@kvloom/kernels'
import { lowPassMatrix } from '@kvloom/math'
import { randomNormal, setBackend, type Tensor, tensor3d, zeros } from '@tensorflow/tfjs-core'
import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter } from '../golden/adapter'
import { freqkv, lowPass } from './freqkv'

const runner = { describe, it, expect }
testGolden(runner, { folder: new URL('../golden/', import.meta.url), adapters: [adapter] })
testCompressor(runner, {
  name: 'freqkv',
  make: () => freqkv({ window: 40 }),
  identity: () => window({ store: 'f32' }, freqkv({ window: 400 })),
  backends: ['wasm'],
})
testCompressor(runner, {
  name: 'freqkv, nearly all kept',
  make: () => freqkv({ window: 23, sinks: 0, keep: 0.9 }),
  shapes: SHAPES.slice(0, 1),
  decode: 40,
})

const model = syntheticModel({ queryHeads: 4, kvHeads: 2, keyDim: 32, valueDim: 32 })

function bound(options: Parameters<typeof freqkv>[0], hold = upload, part: Part = 'keys') {
  const [stage] = stagesOn(freqkv(options), 'resample', 0)
  if (!stage) throw new Error('freqkv has no stage')
  return stage.bind(siteOf(model, 0, part, hold))
}

/** One channel of one head through the filter of `from` rows to `to`. */
async function filtered(x: readonly number[], to: number): Promise<number[]> {
  const rows = lowPass(x.length, to).apply(upload)(tensor3d([...x], [1, x.length, 1]))
  expect(rows.shape).toEqual([1, to, 1])
  return [...(await rows.data())]
}
const energy = (x: readonly number[]) => x.reduce((sum, v) => sum + v * v, 0)
const wave = (k: number, n: number) =>
  Array.from({ length: n }, (_, i) => Math.cos((Math.PI * (2 * i + 1) * k) / (2 * n)))

/** f32 products and sums of up to 64 numbers of size 1. */
const TOLERANCE = 5e-6
const closeTo = (a: readonly number[], b: readonly number[]) => {
  expect(a.length).toBe(b.length)
  for (const [i, v] of a.entries()) expect(Math.abs(v - (b[i] ?? Number.NaN))).toBeLessThan(TOLERANCE)
}

describe('freqkv', () => {
  beforeAll(async () => {
    await registerKernels('wasm')
    await setBackend('wasm')
  })

  it('leaves trunc(N · keep) of the rows after the sinks', () => {
    expect(bound({ window: 48 })).toMatchObject({ sinks: 4, capacity: 48, to: 22 })
    expect(bound({ window: 512, keep: 0.75 })).toMatchObject({ sinks: 4, capacity: 512, to: 381 })
    expect(bound({ window: 105, sinks: 4 })).toMatchObject({ to: 50 })
    expect(bound({ window: 3, sinks: 1 })).toMatchObject({ to: 1 })
  })

  it('keeps constants, low waves and means as they are, and drops high waves', async () => {
    const lengths = fc
      .integer({ min: 2, max: 64 })
      .chain((n) => fc.tuple(fc.constant(n), fc.integer({ min: 1, max: n - 1 }), fc.nat({ max: n - 1 })))
    await fc.assert(
      fc.asyncProperty(lengths, async ([n, m, k]) => {
        closeTo(await filtered(wave(k, n), m), k < m ? wave(k, m) : Array.from({ length: m }, () => 0))
      }),
      { numRuns: 30 },
    )
    const x = Array.from({ length: 37 }, (_, i) => Math.sin(i * i))
    const mean = (of: readonly number[]) => of.reduce((sum, v) => sum + v, 0) / of.length
    expect(mean(await filtered(x, 18))).toBeCloseTo(mean(x), 6)
    closeTo(await filtered(x, 1), [mean(x)])
    closeTo(await filtered(x, 37), x)
  })

  it('keeps more energy the more it keeps, and never gains any', async () => {
    const x = [...(await randomNormal([40], 0, 1, 'float32', 3).data())]
    let before = 0
    for (const m of [5, 10, 20, 30, 39]) {
      const kept = (energy(await filtered(x, m)) * 40) / m
      expect(kept).toBeGreaterThan(before)
      expect(kept).toBeLessThan(energy(x))
      before = kept
    }
  })

  it('filters every head and channel by itself', async () => {
    const rows = randomNormal([3, 20, 8], 0, 1, 'float32', 5)
    const all = lowPass(20, 9).apply(upload)(rows)
    expect(all.shape).toEqual([3, 9, 8])
    const [x, y] = [await rows.data(), await all.data()]
    const { data } = lowPassMatrix(20, 9)
    for (let head = 0; head < 3; head++)
      for (let m = 0; m < 9; m++)
        for (let c = 0; c < 8; c++) {
          let sum = 0
          for (let n = 0; n < 20; n++) sum += (data[m * 20 + n] ?? 0) * (x[(head * 20 + n) * 8 + c] ?? 0)
          expect(Math.abs((y[(head * 9 + m) * 8 + c] ?? Number.NaN) - sum)).toBeLessThan(TOLERANCE)
        }
  })

  it('holds one table for all layers and both parts', () => {
    const held: HostTensor[] = []
    const hold = (table: HostTensor): Tensor => {
      held.push(table)
      return zeros([1])
    }
    const [stage] = stagesOn(freqkv({ window: 20 }), 'resample', 0)
    for (const layer of [0, 1])
      for (const part of ['keys', 'values'] as const) stage?.bind(siteOf(model, layer, part, hold))
    expect(held.length).toBe(4)
    for (const table of held) expect(table.values).toBe(held[0]?.values)
    expect(held[0]?.shape).toEqual([8, 16])
  })

  it('has keys stored before RoPE and makes slots of rows', () => {
    const { stages } = freqkv()
    expect(keySide(stages, 0)).toBe('pre')
    expect(foldSpace(stages, 'keys')).toMatchObject({ rope: 'pre', slots: true })
    expect(foldSpace(stages, 'values')).toMatchObject({ rope: 'none', slots: true })
  })

  it('refuses methods that choose among tokens, and methods that seal rows', () => {
    const options = {}
    const scorer = defineScorer({ name: 'some-scorer', needs: {}, score: () => zeros([1, 1]) })
    const pick = definePick({
      name: 'some-window',
      when: 'room',
      options,
      tokenSets: 'model',
      by: 'positions',
      pick: () => ({ needs: {}, positions: 'slot', count: () => 1, keep: () => [] }),
    })
    const quantizer = defineQuantizer({
      name: 'some-bits',
      options,
      quantizer: () => {
        throw new Error('never bound')
      },
    })
    for (const other of [scorer(), pick(), quantizer()])
      expect(() => compose(freqkv(), other)).toThrow(IncompatibleStages)
    expect(() => compose(freqkv(), scorer())).toThrow(
      /some-scorer and freqkv cannot be composed: .*stands for no token/,
    )
    expect(() => compose(freqkv(), freqkv())).toThrow(IncompatibleStages)
  })

  it('refuses options that leave no row or free none', () => {
    expect(() => freqkv({ window: 4 })).toThrow(/from sinks \+ 2 \(6\)/)
    expect(() => freqkv({ window: 8, keep: 0.2 })).toThrow(/leaves 1 to 3 of the 4 rows/)
    expect(() => freqkv({ keep: 1 })).toThrow(OptionError)
    expect(() => freqkv({ keep: 0 })).toThrow(OptionError)
    expect(() => freqkv({ sinks: -1 })).toThrow(OptionError)
  })
})
