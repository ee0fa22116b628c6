import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { nextWord, uniformRandom } from './random'
import { argmax, candidates, LogitsError, sample } from './sampling'

const log = (...probabilities: number[]): Float32Array => Float32Array.from(probabilities, Math.log)
/** float32 logarithms of the probabilities. */
const ROUNDING = 6

const kept = (logits: Float32Array, options: Parameters<typeof candidates>[1]) => {
  const { ids, probabilities } = candidates(logits, options)
  return Object.fromEntries([...ids].map((id, i) => [id, Number((probabilities[i] ?? 0).toFixed(ROUNDING))]))
}

describe('candidates', () => {
  const logits = log(0.1, 0.4, 0.05, 0.3, 0.15)

  it('softmax at temperature 1', () => {
    expect(kept(logits, { temperature: 1 })).toEqual({ 0: 0.1, 1: 0.4, 2: 0.05, 3: 0.3, 4: 0.15 })
  })
  it('temperature: powers of the probabilities', () => {
    const sum = 0.01 + 0.16 + 0.0025 + 0.09 + 0.0225
    expect(kept(logits, { temperature: 0.5 })[1]).toBeCloseTo(0.16 / sum, 5)
    expect(kept(logits, { temperature: 1e-6 })).toEqual({ 0: 0, 1: 1, 2: 0, 3: 0, 4: 0 })
  })
  it('greedy takes the lowest of equal ids', () => {
    expect(kept(Float32Array.of(1, 3, 3, 2), { temperature: 0 })).toEqual({ 1: 1 })
    expect(kept(Float32Array.of(1, 3, 3, 2), {})).toEqual({ 1: 1 })
  })
  it('top-k keeps k, the lowest ids among equals', () => {
    expect(kept(logits, { temperature: 1, topK: 2 })).toEqual({ 1: 0.571429, 3: 0.428571 })
    expect(kept(Float32Array.of(0, 1, 0, 0), { temperature: 1, topK: 2 })).toEqual({ 0: 0.268941, 1: 0.731059 })
    expect(Object.keys(kept(logits, { temperature: 1, topK: 50 }))).toHaveLength(5)
  })
  it('top-p keeps the smallest set that reaches p', () => {
    expect(kept(logits, { temperature: 1, topP: 0.5 })).toEqual({ 1: 0.571429, 3: 0.428571 })
    expect(kept(logits, { temperature: 1, topP: 0.3 })).toEqual({ 1: 1 })
    expect(Object.keys(kept(logits, { temperature: 1, topP: 0.86 }))).toEqual(['0', '1', '3', '4'])
  })
  it('top-p counts after top-k', () => {
    // Of the three left (0.4, 0.3, 0.15 of 0.85) two reach 0.8.
    expect(Object.keys(kept(logits, { temperature: 1, topK: 3, topP: 0.8 }))).toEqual(['1', '3'])
  })
  it('leaves the logits as they are', () => {
    const copy = logits.slice()
    candidates(logits, { temperature: 0.7, topK: 3, topP: 0.9 })
    expect(logits).toEqual(copy)
  })

  it('top-k and top-p agree with sorting everything', () => {
    const cases = fc.record({
      logits: fc.array(fc.integer({ min: -40, max: 40 }), { minLength: 1, maxLength: 60 }),
      temperature: fc.constantFrom(0.3, 1, 2.5),
      topK: fc.integer({ min: 1, max: 70 }),
      topP: fc.constantFrom(0.1, 0.5, 0.9, 0.99, 1),
    })
    fc.assert(
      fc.property(cases, ({ logits, temperature, topK, topP }) => {
        const values = Float32Array.from(logits, (each) => each / 8)
        const ranked = [...values.keys()].sort((a, b) => values[b]! - values[a]! || a - b).slice(0, topK)
        const weights = ranked.map((id) => Math.exp((values[id]! - values[ranked[0]!]!) / temperature))
        const total = weights.reduce((a, b) => a + b)
        const before = weights.map((_, i) => weights.slice(0, i).reduce((a, b) => a + b, 0) / total)
        const nucleus = topP === 1 ? ranked : ranked.filter((_, i) => before[i]! < topP)
        const { ids, probabilities } = candidates(values, { temperature, topK, topP })
        // At a border reached up to rounding either set is right.
        expect(Math.abs(ids.length - nucleus.length)).toBeLessThanOrEqual(1)
        if (ids.length === nucleus.length) expect([...ids]).toEqual([...nucleus].sort((a, b) => a - b))
        expect(probabilities.reduce((a, b) => a + b)).toBeCloseTo(1, 12)
      }),
    )
  })

  it.each([{ temperature: -1 }, { temperature: NaN }, { topK: 0 }, { topK: 1.5 }, { topP: 0 }, { topP: 1.1 }])(
    'refuses %j',
    (options) => {
      expect(() => candidates(logits, options)).toThrow(/generate: option/)
    },
  )
  it('refuses logits that are no numbers', () => {
    expect(() => argmax(Float32Array.of(0, NaN))).toThrow(LogitsError)
    expect(() => argmax(Float32Array.of(0, Infinity))).toThrow(LogitsError)
    expect(() => argmax(Float32Array.of(-Infinity, -Infinity))).toThrow(LogitsError)
    expect(argmax(Float32Array.of(-Infinity, -3))).toBe(1)
  })
})

describe('sample', () => {
  it('draws with the probabilities of the candidates', () => {
    const logits = log(0.1, 0.4, 0.05, 0.3, 0.15)
    const random = uniformRandom(7)
    const counts = [0, 0, 0, 0, 0]
    const draws = 20_000
    for (let i = 0; i < draws; i++) counts[sample(logits, { temperature: 1, topK: 4 }, random)]!++
    expect(counts[2]).toBe(0)
    const expected = [0.1, 0.4, 0, 0.3, 0.15].map((each) => each / 0.95)
    // Four standard deviations of a count; the seed is fixed, so this either always or never holds.
    counts.forEach((count, id) => {
      const p = expected[id]!
      expect(Math.abs(count - draws * p)).toBeLessThanOrEqual(4 * Math.sqrt(draws * p * (1 - p)))
    })
  })
  it('means the same token by a number when two equal logits swap ranks', () => {
    const [a, b] = [Float32Array.of(1, 1.0000001, 0), Float32Array.of(1.0000001, 1, 0)]
    for (let seed = 0; seed < 200; seed++)
      expect(sample(a, { temperature: 1 }, uniformRandom(seed))).toBe(
        sample(b, { temperature: 1 }, uniformRandom(seed)),
      )
  })
  it('greedy needs no random number', () => {
    const never = () => {
      throw new Error('used')
    }
    expect(sample(Float32Array.of(0, 2, 1), { temperature: 0, topK: 2 }, never)).toBe(1)
  })
})

describe('uniformRandom', () => {
  it('steps as xoshiro128** of its authors', () => {
    // First numbers from the state 1, 2, 3, 4: the test vector of the rand_xoshiro crate, made with the authors' C code.
    const state = Uint32Array.of(1, 2, 3, 4)
    expect(Array.from({ length: 7 }, () => nextWord(state))).toEqual([
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034,
    ])
  })
  it('gives the same numbers for a seed, others for another, all in [0, 1)', () => {
    const draw = (seed: number) => Array.from({ length: 50 }, uniformRandom(seed))
    expect(draw(3)).toEqual(draw(3))
    expect(draw(3)).not.toEqual(draw(4))
    expect(draw(-1)).toEqual(draw(2 ** 32 - 1))
    expect(draw(0).every((each) => each >= 0 && each < 1)).toBe(true)
  })
})
