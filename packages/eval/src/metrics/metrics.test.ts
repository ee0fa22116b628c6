import { describe, expect, it } from 'vitest'
import { AttentionError, AttentionReference } from './attention-error'
import { samplePositions } from './attention-watch'
import { klDivergence, largestIndex, logSumExp, negativeLogLikelihood } from './logits'
import { quantile, spread } from './statistics'

const logits = (...probabilities: number[]): Float32Array => Float32Array.from(probabilities, (p) => Math.log(p) + 3)

/** Logits are float32; sums are float64. */
const FLOAT32 = 6

describe('scores of a row', () => {
  it('gives the likelihood of a known distribution', () => {
    const row = logits(0.5, 0.25, 0.25)
    expect(logSumExp(row)).toBeCloseTo(3, FLOAT32)
    expect(negativeLogLikelihood(row, logSumExp(row), 1)).toBeCloseTo(Math.log(4), FLOAT32)
  })
  it('gives the divergence computed by hand', () => {
    const p = logits(0.5, 0.5)
    const q = logits(0.9, 0.1)
    // 0.5 ln(0.5 / 0.9) + 0.5 ln(0.5 / 0.1) = 0.510826
    expect(klDivergence(p, logSumExp(p), q, logSumExp(q))).toBeCloseTo(0.510826, FLOAT32)
    // 0.9 ln(0.9 / 0.5) + 0.1 ln(0.1 / 0.5) = 0.368064
    expect(klDivergence(q, logSumExp(q), p, logSumExp(p))).toBeCloseTo(0.368064, FLOAT32)
    expect(klDivergence(p, logSumExp(p), p, logSumExp(p))).toBe(0)
  })
  it('does not overflow, and ignores a constant added to all logits', () => {
    const row = Float32Array.of(1000, 999)
    const same = Float32Array.of(0, -1)
    expect(logSumExp(row)).toBeCloseTo(1000 + Math.log(1 + Math.exp(-1)), FLOAT32)
    expect(klDivergence(row, logSumExp(row), same, logSumExp(same))).toBeCloseTo(0, FLOAT32)
  })
  it('takes the first of equal logits', () => {
    expect(largestIndex(Float32Array.of(1, 5, 5, 2))).toBe(1)
  })
  it('is not finite for NaN', () => {
    expect(Number.isFinite(logSumExp(Float32Array.of(1, Number.NaN)))).toBe(false)
  })
})

describe('statistics', () => {
  it('interpolates quantiles as numpy does', () => {
    expect(quantile([4, 1, 3, 2], 0.5)).toBe(2.5)
    expect(quantile([1, 2, 3, 4, 5], 0.99)).toBeCloseTo(4.96, 12)
  })
  it('has a spread only of something', () => {
    expect(spread([])).toBeNull()
    expect(spread([3])).toEqual({ median: 3, lowerQuartile: 3, upperQuartile: 3, count: 1 })
  })
})

describe('attention error', () => {
  it('is relative to the uncompressed output, per layer', () => {
    const reference = new AttentionReference()
    reference.set(0, 5, Float32Array.of(3, 4))
    reference.set(0, 9, Float32Array.of(0, 5))
    const error = new AttentionError(reference, 2)
    error.add(0, 5, Float32Array.of(3, 5))
    error.add(0, 9, Float32Array.of(0, 5))
    error.add(1, 5, Float32Array.of(7, 7))
    // sqrt(1 / (25 + 25)) in layer 0; nothing to compare with in layer 1.
    expect(error.perLayer()).toEqual([Math.sqrt(1 / 50), 0])
  })
  it('samples evenly, ends included', () => {
    expect(samplePositions(10, 20, 4)).toEqual([10, 13, 16, 19])
    expect(samplePositions(3, 5, 10)).toEqual([3, 4])
    expect(samplePositions(3, 3, 10)).toEqual([])
  })
})
