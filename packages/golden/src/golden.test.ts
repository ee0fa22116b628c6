import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { defineScorer } from '@kvloom/core'
import { neg, norm } from '@tensorflow/tfjs-core'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { GoldenAdapter } from './adapter'
import { type NdArray, sliceLikeNumpy } from './array'
import { compareArrays } from './compare'
import { GoldenError } from './errors'
import { formatGolden, summarizeGolden } from './format'
import { compareKept } from './kept'
import { type GoldenResult, runGolden } from './run'
import { readGoldenTensors } from './safetensors'

const floats = (shape: readonly number[], data: readonly number[]): NdArray => ({
  shape,
  data: Float32Array.from(data),
})
const ints = (shape: readonly number[], data: readonly number[]): NdArray => ({ shape, data: Int32Array.from(data) })

describe('numpy slices', () => {
  const cube = ints(
    [2, 3, 4],
    Array.from({ length: 24 }, (_, i) => i),
  )
  it.each([
    [':', [2, 3, 4], 0],
    [':, :2', [2, 2, 4], 0],
    ['1', [3, 4], 12],
    ['-1, 1:', [2, 4], 16],
    ['..., -1', [2, 3], 3],
    ['0, ::2, 1:3', [2, 2], 1],
    [':1, ::-1', [1, 3, 4], 8],
    ['0, 0, 5:', [0], Number.NaN],
  ])('[%s]', (expression, shape, first) => {
    const { shape: got, data } = sliceLikeNumpy(cube, expression)
    expect(got).toEqual(shape)
    expect(data[0] ?? Number.NaN).toBe(first)
  })

  it('refuses what it does not know', () => {
    for (const expression of ['0, 0, 0, 0', '5', 'None', '::0'])
      expect(() => sliceLikeNumpy(cube, expression)).toThrow(GoldenError)
  })
})

describe('comparison', () => {
  it('names the element that uses most of its tolerance', () => {
    const result = compareArrays('x', floats([2, 2], [1, 2, 3.5, 100.5]), floats([2, 2], [1, 2, 3, 100]), {
      abs: 0.4,
      rel: 0.01,
    })
    expect(result).toMatchObject({ passed: false, error: 0.5, where: '[1, 0]' })
  })
  it('is exact without a tolerance, and never lets NaN or another shape pass', () => {
    expect(compareArrays('x', floats([1], [1]), floats([1], [1]), {})).toMatchObject({ passed: true, error: 0 })
    expect(compareArrays('x', floats([1], [1.0001]), floats([1], [1]), {}).passed).toBe(false)
    expect(compareArrays('x', floats([1], [Number.NaN]), floats([1], [1]), { abs: 10 }).passed).toBe(false)
    expect(compareArrays('x', floats([1], [1]), floats([1, 1], [1]), { abs: 10 }).passed).toBe(false)
  })
  it('knows tolerances of groups, masks, norms and shares', () => {
    const [a, b] = [floats([2], [1.05, 2]), floats([2], [1, 2])]
    expect(compareArrays('x', a, b, { absTimesScale: 0.1 }, { scales: floats([2], [1, 1]) }).passed).toBe(true)
    expect(compareArrays('x', a, b, {}, { except: ints([2], [1, 0]) }).passed).toBe(true)
    expect(compareArrays('x', a, b, { relFrobenius: 0.03 }).passed).toBe(true)
    expect(compareArrays('x', a, b, { agreement: 0.5 }).passed).toBe(true)
    expect(compareArrays('x', a, b, { agreement: 0.6 }).passed).toBe(false)
  })
})

describe('kept sets', () => {
  const scores = floats([1, 5], [3, 1, 2, 1, 1])
  const expected = ints([1, 3], [0, 1, 2])
  it('are exact without scores', () => {
    expect(compareKept('kept', expected, expected).passed).toBe(true)
    expect(compareKept('kept', ints([1, 3], [0, 2, 3]), expected).passed).toBe(false)
  })
  it('may differ among tied tokens only', () => {
    expect(compareKept('kept', ints([1, 3], [0, 2, 4]), expected, scores).passed).toBe(true)
    expect(compareKept('kept', ints([1, 3], [1, 3, 4]), expected, scores).passed).toBe(false)
  })
  it('stand in the order of the text, each once', () => {
    expect(compareKept('kept', ints([1, 3], [2, 0, 1]), expected, scores).passed).toBe(false)
    expect(compareKept('kept', ints([1, 3], [0, 0, 2]), expected, scores).passed).toBe(false)
  })
})

/** One F32 and one I32 tensor a file. */
function safetensors(tensors: Readonly<Record<string, NdArray>>): Uint8Array {
  let end = 0
  const header = Object.fromEntries(
    Object.entries(tensors).map(([name, { shape, data }]) => {
      const data_offsets = [end, end + data.byteLength]
      end += data.byteLength
      return [name, { dtype: data instanceof Float32Array ? 'F32' : 'I32', shape, data_offsets }]
    }),
  )
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([length, json, ...Object.values(tensors).map(({ data }) => Buffer.from(data.buffer))])
}

const l2Norm = defineScorer({
  name: 'l2-norm',
  needs: { keys: { of: 'keys' } },
  score: ({ keys }) => neg(norm(keys, 2, -1)),
})
const adapters: readonly GoldenAdapter[] = [{ press: { name: 'knorm', make: (_, keep) => l2Norm({ keep }) } }]

describe('a golden folder', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'kvloom-golden-'))
    const k = floats([1, 4, 2], [3, 0, 1, 0, 0, 2, 0, 4])
    await writeFile(
      join(folder, 'data.safetensors'),
      safetensors({ k, right: ints([1, 2], [1, 2]), wrong: ints([1, 2], [0, 2]) }),
    )
    const knorm = (name: string, kept: string) => ({
      name,
      options: { press: 'knorm', compression_ratios: [0.5] },
      inputs: { k: 'data.safetensors:k' },
      expected: { kept_r50: `data.safetensors:${kept}` },
      scalars: { cut: { r50: { unique: true } } },
    })
    const cases = [
      knorm('right', 'right'),
      knorm('wrong', 'wrong'),
      knorm('absent', 'absent'),
      { name: 'other', options: { press: 'unheard-of' }, inputs: {}, expected: {} },
    ]
    await writeFile(join(folder, 'golden.json'), JSON.stringify({ method: 'kvpress', cases }))
  })
  afterEach(() => rm(folder, { recursive: true }))

  const run = async (only: readonly string[] = []): Promise<GoldenResult[]> => {
    const results: GoldenResult[] = []
    for await (const result of runGolden([folder], { adapters, only, backend: 'cpu' })) results.push(result)
    return results
  }

  it('passes what agrees, fails what does not, and counts unknown cases as failed', async () => {
    const results = await run()
    expect(results.map(({ status }) => status)).toEqual(['passed', 'failed', 'failed', 'unknown'])
    expect(results[1]?.message).toMatch(/kept_r50 at head 0, token 1/)
    expect(results[2]?.message).toMatch(/no tensor absent/)
    expect(summarizeGolden(results)).toBe('1 passed, 3 failed')
    expect(formatGolden(results[0] as GoldenResult)).toMatch(
      /^passed {2}kvloom-golden-.*\/right {2}kept_r50.*: error 0, tolerance 0$/,
    )
  })

  it('writes numbers with two digits, exponents whole', () => {
    const line = (error: number, tolerance: number): string =>
      formatGolden({
        folder: 'f',
        case: 'c',
        status: 'passed',
        tensors: [{ name: 'x', error, tolerance, passed: true, where: '' }],
        message: '',
      })
    expect(line(2.3e-10, 1e-10)).toBe('passed  f/c  x: error 2.3e-10, tolerance 1e-10')
    expect(line(0.00123456, 5e-20)).toBe('passed  f/c  x: error 0.0012, tolerance 5e-20')
    expect(line(1e30, 120)).toBe('passed  f/c  x: error 1e+30, tolerance 120')
    expect(line(Number.NaN, Number.POSITIVE_INFINITY)).toBe('passed  f/c  x: error NaN, tolerance Infinity')
    expect(line(0, 0.5)).toBe('passed  f/c  x: error 0, tolerance 0.5')
  })

  it('runs only what is asked for, by press or name', async () => {
    expect((await run(['ri'])).map((r) => r.case)).toEqual(['right'])
    expect((await run(['knorm'])).map((r) => r.case)).toEqual(['right', 'wrong', 'absent'])
  })

  it('refuses folders without golden data, and damaged files', async () => {
    await expect(runGolden([join(folder, 'nothing')], { adapters }).next()).rejects.toThrow(GoldenError)
    await writeFile(join(folder, 'short.safetensors'), Uint8Array.of(1, 2, 3))
    await expect(readGoldenTensors(join(folder, 'short.safetensors'))).rejects.toThrow(GoldenError)
    await writeFile(join(folder, 'golden.json'), '{}')
    await expect(runGolden([folder], { adapters }).next()).rejects.toThrow(/not golden data/)
  })
})
