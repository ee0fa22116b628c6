import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { dct2, dct3, dctMatrix, lowPassMatrix } from './dct'
import { MathError } from './errors'
import { cosOfPi, exactExp, exactLog } from './exact'
import { hadamardMatrix, hadamardTransform } from './hadamard'
import { frobeniusNorm, identity, matrix, multiply, transpose } from './matrix'
import { seededRandom } from './random'
import { largestGap, matrices, readFixture } from './testing'

/** Two units in the last place. */
const LAST_PLACES = 2 * Number.EPSILON

describe('exact functions', () => {
  it('agree with Math to the last places', () => {
    const positive = fc.double({ min: 1e-300, max: 1e300, noNaN: true })
    fc.assert(
      fc.property(positive, (x) => {
        expect(Math.abs(exactLog(x) - Math.log(x))).toBeLessThanOrEqual(
          LAST_PLACES * Math.max(Math.abs(Math.log(x)), 1e-300),
        )
      }),
      { numRuns: 2000 },
    )
    fc.assert(
      fc.property(fc.double({ min: -700, max: 700, noNaN: true }), (x) => {
        expect(Math.abs(exactExp(x) / Math.exp(x) - 1)).toBeLessThanOrEqual(2 * LAST_PLACES)
      }),
      { numRuns: 2000 },
    )
    fc.assert(
      fc.property(fc.integer({ min: -5000, max: 5000 }), fc.integer({ min: 1, max: 3000 }), (m, n) => {
        expect(Math.abs(cosOfPi(m, n) - Math.cos((Math.PI * m) / n))).toBeLessThan(1e-11)
      }),
      { numRuns: 2000 },
    )
    expect([exactLog(1), exactExp(0), cosOfPi(1, 3), cosOfPi(1, 2), cosOfPi(1, 1)]).toEqual([
      0,
      1,
      expect.closeTo(0.5, 15),
      0,
      -1,
    ])
    expect([exactLog(0), exactLog(-1), exactExp(-1000), exactExp(1000)]).toEqual([-Infinity, NaN, 0, Infinity])
  })
})

describe('seededRandom', () => {
  it('gives the numbers written here, on every platform', () => {
    const random = seededRandom(42)
    expect([random.uniform(), random.integer(1000), random.gaussian(), random.gaussian()]).toMatchInlineSnapshot(`
      [
        0.2913792563342512,
        848,
        1.0938822404852782,
        -0.9912666296936596,
      ]
    `)
    expect([...seededRandom(7).permutation(8)]).toMatchInlineSnapshot(`
      [
        6,
        1,
        2,
        5,
        4,
        0,
        3,
        7,
      ]
    `)
  })

  it('draws N(0, 1) and permutations', () => {
    const count = 400_000
    const draws = seededRandom(1).gaussians(count)
    const moment = (power: number) => draws.reduce((sum, x) => sum + x ** power, 0) / count
    // Five standard errors of each moment.
    expect(Math.abs(moment(1))).toBeLessThan(5 / Math.sqrt(count))
    expect(Math.abs(moment(2) - 1)).toBeLessThan(5 * Math.sqrt(2 / count))
    expect(Math.abs(moment(4) - 3)).toBeLessThan(5 * Math.sqrt(96 / count))
    expect([...seededRandom(3).permutation(100)].sort((a, b) => a - b)).toEqual(
      Array.from({ length: 100 }, (_, i) => i),
    )
    expect(() => seededRandom(0.5)).toThrow(MathError)
    expect(() => seededRandom(1).integer(0)).toThrow(MathError)
  })
})

describe('dct', () => {
  it('is orthonormal, and DCT-III undoes DCT-II', () => {
    fc.assert(
      fc.property(matrices, (x) => {
        const scale = 1 + frobeniusNorm(x)
        expect(largestGap(dct3(dct2(x)), x)).toBeLessThan(1e-13 * scale)
        expect(Math.abs(frobeniusNorm(dct2(x)) - frobeniusNorm(x))).toBeLessThan(1e-13 * scale)
      }),
    )
    for (const n of [1, 2, 37, 101]) {
      const c = dctMatrix(n)
      expect(largestGap(multiply(c, transpose(c)), identity(n))).toBeLessThan(1e-13)
    }
  })

  it('low-passes: constants and low basis functions survive, to = from is the identity', () => {
    const ones = matrix(101, 1, new Float64Array(101).fill(3))
    expect(
      largestGap(multiply(lowPassMatrix(101, 50), ones), matrix(50, 1, new Float64Array(50).fill(3))),
    ).toBeLessThan(1e-12)
    expect(largestGap(lowPassMatrix(24, 24), identity(24))).toBeLessThan(1e-13)
    expect(() => lowPassMatrix(4, 5)).toThrow(MathError)
  })

  it('low-passes as the product of both transforms does', () => {
    const product = (from: number, to: number) => {
      const map = multiply(transpose(dctMatrix(to)), dctMatrix(from, to))
      return matrix(
        to,
        from,
        map.data.map((x) => x * Math.sqrt(to / from)),
      )
    }
    const sizes = fc.integer({ min: 1, max: 60 }).chain((n) => fc.tuple(fc.constant(n), fc.integer({ min: 1, max: n })))
    fc.assert(
      fc.property(sizes, ([from, to]) => {
        expect(largestGap(lowPassMatrix(from, to), product(from, to))).toBeLessThan(1e-14)
      }),
    )
    // Angles that are nearly equal, and those of FreqKV with a window of 512.
    for (const [from, to] of [
      [300, 299],
      [508, 254],
      [508, 381],
    ] as const)
      expect(largestGap(lowPassMatrix(from, to), product(from, to))).toBeLessThan(1e-14)
  })

  it("agrees with FreqKV's own code on real keys", () => {
    const fixture = readFixture('freqkv')
    const keys = fixture('layer0.k')
    const expected = fixture('layer0.k-101to50')
    const map = lowPassMatrix(101, 50)
    for (let head = 0; head < 3; head++) {
      const x = matrix(101, 64, keys.data.subarray(head * 101 * 64, (head + 1) * 101 * 64))
      const y = matrix(50, 64, expected.data.subarray(head * 50 * 64, (head + 1) * 50 * 64))
      // The reference transforms in float32.
      expect(largestGap(multiply(map, x), y)).toBeLessThan(1.1e-4)
    }
  })
})

describe('hadamard', () => {
  it('is the matrix, and undone by itself over n', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 8 }), fc.integer({ min: 1, max: 4 }), fc.integer(), (power, rows, seed) => {
        const n = 2 ** power
        const x = { rows, columns: n, data: seededRandom(seed).gaussians(rows * n) }
        const turned = hadamardTransform(x)
        expect(largestGap(turned, multiply(x, hadamardMatrix(n)))).toBeLessThan(1e-11)
        const back = hadamardTransform(turned)
        expect(
          largestGap(
            matrix(
              rows,
              n,
              back.data.map((value) => value / n),
            ),
            x,
          ),
        ).toBeLessThan(1e-13)
      }),
    )
    expect([...hadamardMatrix(4).data]).toEqual([1, 1, 1, 1, 1, -1, 1, -1, 1, 1, -1, -1, 1, -1, -1, 1])
    expect(() => hadamardTransform(matrix(1, 6))).toThrow(/a power of two/)
  })
})
