import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MathError } from './errors'
import { gaussianError, gaussianGrid } from './gaussian-grid'
import { kmeans } from './kmeans'
import { kmeansPlusPlus } from './kmeans-start'
import { GAUSSIAN, lloydMax, sphereCoordinate } from './lloyd-max'
import { lloydMaxOfSamples } from './lloyd-max-samples'
import { type Matrix, matrix } from './matrix'
import { nearest } from './nearest'
import { seededRandom } from './random'
import { largestGap, readFixture } from './testing'

const cloud = (rows: number, columns: number, seed: number): Matrix => ({
  rows,
  columns,
  data: seededRandom(seed).gaussians(rows * columns),
})

describe('nearest', () => {
  const slow = (points: Matrix, centroids: Matrix): number[] =>
    Array.from({ length: points.rows }, (_, i) => {
      const distances = Array.from({ length: centroids.rows }, (_, j) =>
        centroids.data
          .subarray(j * centroids.columns, (j + 1) * centroids.columns)
          .reduce((sum, c, t) => sum + (points.data[i * points.columns + t]! - c) ** 2, 0),
      )
      return distances.indexOf(Math.min(...distances))
    })

  it('is exact with any guess, lowest index on ties', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 120 }), fc.integer({ min: 1, max: 5 }), fc.integer(), (k, d, seed) => {
        // Integer coordinates make many ties and duplicated centroids.
        const round = (a: Matrix) =>
          matrix(
            a.rows,
            a.columns,
            a.data.map((x) => Math.round(1.5 * x)),
          )
        const points = round(cloud(200, d, seed))
        const centroids = round(cloud(k, d, seed ^ 0x5555))
        const random = seededRandom(seed)
        const guess = Int32Array.from({ length: 200 }, () => random.integer(k))
        const expected = slow(points, centroids)
        expect([...nearest(points, centroids).index]).toEqual(expected)
        expect([...nearest(points, centroids, guess).index]).toEqual(expected)
      }),
      { numRuns: 60 },
    )
  })
})

describe('kmeans', () => {
  const weightings = ['none', 'point', 'coordinate'] as const
  const weightsOf = (kind: (typeof weightings)[number], points: Matrix, seed: number) => {
    if (kind === 'none') return {}
    const count = kind === 'point' ? points.rows : points.data.length
    return {
      weights: seededRandom(seed)
        .gaussians(count)
        .map((x) => Math.max(0, x) ** 2),
    }
  }

  it('never raises its cost, and ends where each centroid is the weighted mean of its members', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...weightings),
        fc.integer({ min: 1, max: 20 }),
        fc.integer(),
        (kind, clusters, seed) => {
          const points = cloud(150, 3, seed)
          const weighted = weightsOf(kind, points, seed)
          const { costs, cost, centroids, assignment } = kmeans(points, { clusters, seed, ...weighted })
          costs.slice(1).forEach((next, i) => {
            expect(next).toBeLessThanOrEqual(costs[i]!)
          })
          expect(costs.at(-1)).toBe(cost)
          const again = kmeans(points, { clusters, ...weighted, initial: centroids, iterations: 1, empty: 'keep' })
          expect(largestGap(again.centroids, centroids)).toBeLessThan(1e-9)
          expect([...again.assignment]).toEqual([...assignment])
        },
      ),
      { numRuns: 60 },
    )
  })

  it('is the same for the same seed, better with restarts, and moves or keeps empty centroids', () => {
    const points = cloud(300, 2, 1)
    expect(kmeans(points, { clusters: 9, seed: 4 })).toEqual(kmeans(points, { clusters: 9, seed: 4 }))
    const one = kmeans(points, { clusters: 12, seed: 4 })
    expect(kmeans(points, { clusters: 12, seed: 4, restarts: 6 }).cost).toBeLessThanOrEqual(one.cost)
    const far = matrix(3, 2, [0, 0, 100, 100, 200, 200])
    const kept = kmeans(points, { clusters: 3, initial: far, empty: 'keep' })
    expect([...kept.centroids.data.slice(2)]).toEqual([100, 100, 200, 200])
    const moved = kmeans(points, { clusters: 3, initial: far })
    expect(new Set(moved.assignment).size).toBe(3)
    expect(moved.cost).toBeLessThan(kept.cost)
  })

  it('copes with equal points and refuses bad input', () => {
    const same = kmeans(matrix(5, 2, new Float64Array(10).fill(1)), { clusters: 3 })
    expect(same.cost).toBe(0)
    expect(kmeansPlusPlus(matrix(3, 1, [1, 2, 3]), 3, { seed: 0 }).data.sort()).toEqual(Float64Array.from([1, 2, 3]))
    expect(() => kmeans(matrix(2, 1), { clusters: 3 })).toThrow(/2 points for 3 clusters/)
    expect(() => kmeans(cloud(9, 2, 1), { clusters: 2, weights: [1, 2] })).toThrow(/2 weights/)
    expect(() => kmeans(cloud(2, 1, 1), { clusters: 2, weights: [1, -1] })).toThrow(MathError)
    expect(() => kmeans(cloud(2, 1, 1), { clusters: 2, weights: [0, 0] })).toThrow(/all 0/)
  })

  it('starts with one draw a centroid, or with the best of several', () => {
    const points = cloud(2000, 4, 3)
    const costWith = (trials: number) => {
      const starts = Array.from({ length: 8 }, (_, seed) => kmeansPlusPlus(points, 32, { seed, trials }))
      return starts.reduce((sum, initial) => sum + kmeans(points, { clusters: 32, initial, iterations: 0 }).cost, 0)
    }
    expect(costWith(8)).toBeLessThan(0.95 * costWith(1))
    expect(kmeansPlusPlus(points, 32, { seed: 1, trials: 2 + Math.floor(Math.log(32)) })).toEqual(
      kmeansPlusPlus(points, 32, { seed: 1 }),
    )
    expect(() => kmeansPlusPlus(points, 32, { seed: 1, trials: 0 })).toThrow(/trials = 0/)
  })

  const cases = [
    {
      name: 'fisher',
      coupled: 8,
      clusters: 32,
      best: 154.93122130006367,
      after: [554.139274597168, 269.8222198486328, 213.1269760131836, 202.05091857910156, 200.50379180908203],
    },
    {
      name: 'uniform',
      coupled: 2,
      clusters: 16,
      best: 276.01606600625615,
      after: [815.5662870407104, 488.7223062515259, 403.7198700904846, 367.8300943374634, 350.20604038238525],
    },
  ]
  it.each(cases)('learns the codebooks of Coupled Quantization: $name', ({ name, coupled, clusters, best, after }) => {
    const fixture = readFixture(`cq-${name}`)
    const x = fixture('calib_x')
    const fisher = fixture('weights')
    const learned = readFixture(`cq-${name}-learned`)('lloyd_step1')
    const costs = new Float64Array(after.length)
    let reached = 0
    for (let group = 0; group < x.columns / coupled; group++) {
      const at = (i: number) => i * x.columns + group * coupled
      const rows = Array.from({ length: x.rows }, (_, i) => [...x.data.subarray(at(i), at(i) + coupled)])
      const points = matrix(x.rows, coupled, rows.flat())
      const weights = rows.map((_, i) => fisher.data[i * fisher.columns + group]!)
      const options = { clusters, weights: name === 'fisher' ? weights : weights.map(() => 1) }
      const initial = matrix(clusters, coupled, points.data.subarray(0, clusters * coupled))
      const step = kmeans(points, { ...options, initial, iterations: 1, empty: 'keep' })
      const size = clusters * coupled
      expect(
        largestGap(step.centroids, matrix(clusters, coupled, learned.data.subarray(group * size, (group + 1) * size))),
      ).toBeLessThan(5e-4)
      const run = kmeans(points, { ...options, initial, iterations: 4, empty: 'keep' })
      for (let n = 0; n < after.length; n++) costs[n]! += run.costs[Math.min(n, run.costs.length - 1)]!
      reached += kmeans(points, { ...options, restarts: 4, iterations: 25 }).cost
    }
    after.forEach((expected, n) => {
      expect(Math.abs(costs[n]! / expected - 1)).toBeLessThan(n <= 2 ? 1e-3 : 1e-2)
    })
    // The golden data's bound for a good local optimum.
    expect(reached).toBeLessThan(1.03 * best)
  })
})

describe('lloydMax', () => {
  it.each([1, 2, 3, 4])('finds the %d-bit levels of N(0, 1) and of the sphere', (bits) => {
    const codebooks = readFixture('turboquant-codebooks')
    const compare = (found: Float64Array, name: string, scale: number) => {
      found.forEach((value, i) => {
        expect(value * scale).toBeCloseTo(codebooks(name).data[i]!, 5)
      })
    }
    compare(lloydMax(GAUSSIAN, 2 ** bits).centroids, `gauss_b${bits}`, 1)
    for (const d of [64, 80, 128])
      compare(lloydMax(sphereCoordinate(d), 2 ** bits).centroids, `codebook_d${d}_b${bits}`, 1)
    expect(lloydMax(GAUSSIAN, 2 ** bits).error).toBeCloseTo([0.36338, 0.117482, 0.034548, 0.009501][bits - 1]!, 6)
  })

  it('settles for one level, many levels and flat densities', () => {
    expect(lloydMax(GAUSSIAN, 1).centroids[0]).toBeCloseTo(0, 12)
    const many = lloydMax(GAUSSIAN, 256)
    // Panter and Dite: √3 π / 2 / n² of the variance.
    expect(many.error * 256 ** 2).toBeCloseTo((Math.sqrt(3) * Math.PI) / 2, 1)
    const flat = lloydMax({ of: () => 1, low: 0, high: 1 }, 4)
    flat.centroids.forEach((value, i) => {
      expect(value).toBeCloseTo((i + 0.5) / 4, 12)
    })
    expect(() => lloydMax({ of: () => 0, low: 0, high: 1 }, 4)).toThrow(MathError)
    expect(() => lloydMax(GAUSSIAN, 0)).toThrow(/levels = 0/)
  })

  it('on samples approaches the density, heeds weights, and is about as good as k-means', () => {
    const samples = seededRandom(2).gaussians(100_000)
    const found = lloydMaxOfSamples(samples, 8)
    const exact = lloydMax(GAUSSIAN, 8)
    found.centroids.forEach((value, i) => {
      expect(Math.abs(value - exact.centroids[i]!)).toBeLessThan(0.05)
    })
    const few = cloud(400, 1, 3)
    const weights = few.data.map((x) => x * x)
    const line = lloydMaxOfSamples(few.data, 5, { weights })
    const total = weights.reduce((sum, w) => sum + w, 0)
    expect(line.error * total).toBeLessThan(1.05 * kmeans(few, { clusters: 5, weights, restarts: 5 }).cost)
    expect([...lloydMaxOfSamples([3, 1, 1, 3], 2).centroids]).toEqual([1, 3])
    expect(lloydMaxOfSamples([2, 2, 2], 3).error).toBe(0)
    expect(() => lloydMaxOfSamples([1], 2)).toThrow(MathError)
    expect(() => lloydMaxOfSamples([1, Number.NaN], 1)).toThrow(/NaN/)
  })
})

describe('gaussianGrid', () => {
  const small = { batches: 60, batchPerPoint: 100, samplesPerPoint: 400, iterations: 20 }

  it('is Lloyd-Max in one dimension and of falling error in more', () => {
    expect(gaussianGrid({ dimension: 1, points: 4, seed: 9 }).data).toEqual(lloydMax(GAUSSIAN, 4).centroids)
    // 2 bits a value: the error falls with the dimension. Bounds: the scalar's exact error, HIGGS' published grids + 5 %.
    const error = (dimension: number, points: number) =>
      gaussianError(gaussianGrid({ dimension, points, seed: 1, ...small }), { seed: 2, count: 100_000 })
    expect(gaussianError(gaussianGrid({ dimension: 1, points: 4, seed: 1 }), { seed: 2, count: 100_000 })).toBeCloseTo(
      0.11748,
      2,
    )
    expect(error(2, 16)).toBeLessThan(1.05 * 0.1076)
    expect(error(4, 256)).toBeLessThan(1.05 * 0.0965)
    expect(error(8, 16)).toBeLessThan(0.75)
  })

  it('depends on the seed alone', () => {
    const grid = gaussianGrid({ dimension: 2, points: 8, seed: 3, ...small })
    expect(gaussianGrid({ dimension: 2, points: 8, seed: 3, ...small })).toEqual(grid)
    expect(gaussianGrid({ dimension: 2, points: 8, seed: 4, ...small })).not.toEqual(grid)
    expect([...Float32Array.from(grid.data)]).toMatchInlineSnapshot(`
      [
        -1.5811595916748047,
        0.03466779366135597,
        -0.8827497959136963,
        -0.9845966100692749,
        -0.8490419983863831,
        1.028888463973999,
        0.05319854989647865,
        -0.04897100478410721,
        0.1964060366153717,
        -1.639412522315979,
        0.33239471912384033,
        1.4814640283584595,
        1.2687251567840576,
        -0.7534530162811279,
        1.3265234231948853,
        0.5905291438102722,
      ]
    `)
    expect(() => gaussianGrid({ dimension: 0, points: 8, seed: 3 })).toThrow(MathError)
  })
})
