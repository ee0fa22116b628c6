import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { solveSymmetric } from './cholesky'
import { symmetricEigen } from './eigen'
import { MathError } from './errors'
import { firstColumns, frobeniusNorm, identity, type Matrix, matrix, multiply, transpose } from './matrix'
import { cosineSimilarity, orthonormalColumns, randomOrthogonal } from './orthogonal'
import { seededRandom } from './random'
import { fromSvd, pseudoInverse, randomizedSvd, svd } from './svd'
import { largestGap, matrices } from './testing'

/** Rounding of a few hundred operations, relative to the size of the matrix. */
const ROUNDING = 1e-11
const gram = (a: Matrix): Matrix => multiply(transpose(a), a)
const gaussian = (rows: number, columns: number, seed: number): Matrix => ({
  rows,
  columns,
  data: seededRandom(seed).gaussians(rows * columns),
})

describe('svd', () => {
  it('gives back any matrix, with orthonormal factors and falling values', () => {
    fc.assert(
      fc.property(matrices, (a) => {
        const found = svd(a)
        const scale = 1 + frobeniusNorm(a)
        expect(largestGap(fromSvd(found), a)).toBeLessThan(ROUNDING * scale)
        expect(largestGap(gram(found.u), identity(found.u.columns))).toBeLessThan(1e-9)
        expect(largestGap(gram(found.v), identity(found.v.columns))).toBeLessThan(1e-9)
        found.values.forEach((value, i) => {
          expect(value).toBeGreaterThanOrEqual(0)
          if (i > 0) expect(value).toBeLessThanOrEqual(found.values[i - 1] as number)
        })
      }),
      { numRuns: 200 },
    )
  })

  it('truncated, loses exactly the values it drops', () => {
    fc.assert(
      fc.property(matrices, fc.nat(), (a, pick) => {
        const rank = pick % (Math.min(a.rows, a.columns) + 1)
        const full = svd(a)
        const gap = matrix(a.rows, a.columns, a.data)
        const near = fromSvd(svd(a, { rank }))
        for (let i = 0; i < gap.data.length; i++) gap.data[i] = (gap.data[i] as number) - (near.data[i] as number)
        const dropped = Math.sqrt(full.values.slice(rank).reduce((sum, s) => sum + s * s, 0))
        expect(Math.abs(frobeniusNorm(gap) - dropped)).toBeLessThan(ROUNDING * (1 + frobeniusNorm(a)))
      }),
    )
  })

  it('handles zero, empty, one and tall', () => {
    expect([...svd(matrix(3, 2)).values]).toEqual([0, 0])
    expect(svd(matrix(0, 4)).values.length).toBe(0)
    expect([...svd(matrix(1, 1, [-3])).values]).toEqual([3])
    const tall = gaussian(500, 7, 3)
    expect(largestGap(fromSvd(svd(tall)), tall)).toBeLessThan(ROUNDING)
    const wide = transpose(tall)
    expect(largestGap(fromSvd(svd(wide)), wide)).toBeLessThan(ROUNDING)
    expect(() => svd(matrix(1, 2, [1, Number.NaN]))).toThrow(MathError)
    expect(() => svd(tall, { rank: 8 })).toThrow(/rank = 8; allowed: an integer from 0 to 7/)
  })

  it('randomized, finds the leading part of a large matrix, the same for the same seed', () => {
    const spectrum = Float64Array.from({ length: 30 }, (_, i) => 0.7 ** i)
    const a = fromSvd({
      u: firstColumns(orthonormalColumns(gaussian(600, 30, 1)), 30),
      values: spectrum,
      v: firstColumns(orthonormalColumns(gaussian(90, 30, 2)), 30),
    })
    const found = randomizedSvd(a, { rank: 8, seed: 5 })
    found.values.forEach((value, i) => {
      expect(Math.abs(value - (spectrum[i] as number))).toBeLessThan(1e-8)
    })
    expect(randomizedSvd(a, { rank: 8, seed: 5 })).toEqual(found)
    expect(largestGap(fromSvd(randomizedSvd(a, { rank: 40 })), a)).toBeLessThan(ROUNDING)
  })
})

describe('pseudoInverse', () => {
  it("meets Penrose's conditions", () => {
    fc.assert(
      fc.property(matrices, (a) => {
        const limit = 1e-6
        const inverse = pseudoInverse(a, limit)
        const { values } = svd(a)
        const kept = values.filter((s) => s > limit * (values[0] as number))
        // A dropped small value is a true part of `a`: the conditions hold up to it.
        const slack = 1e-7 + (values[kept.length] ?? 0)
        const condition = kept.length === 0 ? 1 : (kept[0] as number) / (kept.at(-1) as number)
        const scale = 1 + frobeniusNorm(a)
        expect(largestGap(multiply(a, multiply(inverse, a)), a)).toBeLessThan(slack * scale * condition)
        const projector = multiply(inverse, a)
        expect(largestGap(projector, transpose(projector))).toBeLessThan(1e-7 * condition)
      }),
    )
  })
})

describe('symmetricEigen', () => {
  it('diagonalises any symmetric matrix, with falling values', () => {
    fc.assert(
      fc.property(matrices, (b) => {
        const a = gram(b)
        const { values, vectors } = symmetricEigen(a)
        const scale = 1 + frobeniusNorm(a)
        const again = fromSvd({ u: vectors, values, v: vectors })
        expect(largestGap(again, a)).toBeLessThan(ROUNDING * scale)
        expect(largestGap(gram(vectors), identity(a.rows))).toBeLessThan(1e-9)
        expect([...values]).toEqual([...values].sort((x, y) => y - x))
      }),
    )
  })

  it('fixes signs and refuses what is not symmetric', () => {
    expect([...symmetricEigen(matrix(2, 2, [2, -1, -1, 2])).values].map((x) => Math.round(x))).toEqual([3, 1])
    expect(symmetricEigen(matrix(2, 2, [0, 0, 0, 5])).vectors.data).toEqual(Float64Array.from([0, 1, 1, 0]))
    expect(() => symmetricEigen(matrix(2, 2, [0, 1, 0, 0]))).toThrow(/differs from its transpose by 1/)
    expect(() => symmetricEigen(matrix(1, 2))).toThrow(MathError)
  })
})

describe('solveSymmetric', () => {
  it('solves, and says which row depends on the others', () => {
    const a = gram(gaussian(40, 9, 8))
    const x = gaussian(9, 3, 9)
    expect(largestGap(solveSymmetric(a, multiply(a, x)), x)).toBeLessThan(ROUNDING)
    expect(() => solveSymmetric(matrix(2, 2, [1, 1, 1, 1]), matrix(2, 1))).toThrow(/row 1 depends/)
  })
})

describe('randomOrthogonal', () => {
  it('is orthogonal, differs by seed, and is the same on every platform', () => {
    for (const n of [1, 2, 64, 129]) {
      expect(largestGap(gram(randomOrthogonal(n, 4)), identity(n))).toBeLessThan(1e-12)
    }
    expect(largestGap(randomOrthogonal(16, 1), randomOrthogonal(16, 2))).toBeGreaterThan(0.1)
    expect([...randomOrthogonal(2, 1).data]).toMatchInlineSnapshot(`
      [
        -0.8992246000494141,
        -0.43748727829043343,
        -0.43748727829043343,
        0.8992246000494141,
      ]
    `)
  })
})

describe('cosineSimilarity', () => {
  it('knows parallel, opposite, orthogonal and zero', () => {
    expect(cosineSimilarity([1, 2], [2, 4])).toBeCloseTo(1, 15)
    expect(cosineSimilarity([1, 2], [-1, -2])).toBeCloseTo(-1, 15)
    expect(cosineSimilarity([1, 0], [0, 1])).toBe(0)
    expect(cosineSimilarity([0, 0], [0, 1])).toBe(0)
    expect(() => cosineSimilarity([1], [1, 2])).toThrow(MathError)
  })
})
