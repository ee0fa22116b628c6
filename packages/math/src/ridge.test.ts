import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MathError } from './errors'
import { hadamardTransform } from './hadamard'
import { frobeniusNorm, type Matrix, matrix, multiply, transpose } from './matrix'
import { nearest } from './nearest'
import { seededRandom } from './random'
import { applyLinear, type LinearMap, RidgeAccumulator } from './ridge'
import { svd } from './svd'
import { largestGap, readFixture, relativeSquaredGap } from './testing'

const problem = (rows: number, inputs: number, outputs: number, seed: number) => {
  const random = seededRandom(seed)
  const x: Matrix = { rows, columns: inputs, data: random.gaussians(rows * inputs).map((value) => value + 0.5) }
  const y: Matrix = { rows, columns: outputs, data: random.gaussians(rows * outputs) }
  return { x, y }
}
const shapes = fc.tuple(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 6 }), fc.integer(), fc.boolean())
const withOnes = (x: Matrix): Matrix => {
  const out = matrix(x.rows, x.columns + 1)
  for (let i = 0; i < x.rows; i++) {
    out.data.set(x.data.subarray(i * x.columns, (i + 1) * x.columns), i * out.columns)
    out.data[i * out.columns + x.columns] = 1
  }
  return out
}

describe('RidgeAccumulator', () => {
  it('solves the normal equations', () => {
    fc.assert(
      fc.property(shapes, ([inputs, outputs, seed, bias]) => {
        const { x, y } = problem(60, inputs, outputs, seed)
        const map = new RidgeAccumulator(inputs, outputs).add(x, y).solve(1e-3, { bias })
        const design = bias ? withOnes(x) : x
        const w = matrix(design.columns, outputs, [...map.weights.data, ...(bias ? map.bias : [])])
        const gram = multiply(transpose(design), design)
        let trace = 0
        for (let i = 0; i < gram.rows; i++) trace += gram.data[i * gram.columns + i] as number
        const lambda = (1e-3 * trace) / gram.rows
        for (let i = 0; i < gram.rows; i++) gram.data[i * gram.columns + i]! += lambda
        expect(largestGap(multiply(gram, w), multiply(transpose(design), y))).toBeLessThan(1e-10)
      }),
    )
  })

  it('gives the same in pieces as at once, and takes float32', () => {
    const { x, y } = problem(700, 5, 3, 1)
    const part = (a: Matrix, from: number, to: number) => ({
      rows: to - from,
      columns: a.columns,
      data: a.data.subarray(from * a.columns, to * a.columns),
    })
    const once = new RidgeAccumulator(5, 3).add(x, y).solve(1e-3)
    const pieces = new RidgeAccumulator(5, 3)
    for (const [from, to] of [
      [0, 1],
      [1, 1],
      [1, 258],
      [258, 700],
    ] as const)
      pieces.add(part(x, from, to), part(y, from, to))
    expect(pieces.rows).toBe(700)
    expect(largestGap(pieces.solve(1e-3).weights, once.weights)).toBeLessThan(1e-13)
    const single = { ...x, data: Float32Array.from(x.data) }
    expect(largestGap(new RidgeAccumulator(5, 3).add(single, y).solve(1e-3).weights, once.weights)).toBeLessThan(1e-6)
  })

  it('recovers an affine map without damping; its residual is orthogonal to the inputs', () => {
    const { x } = problem(50, 4, 2, 3)
    const truth: LinearMap = { weights: matrix(4, 2, [1, 2, 3, 4, 5, 6, 7, 8]), bias: Float64Array.from([-1, 2]) }
    const found = new RidgeAccumulator(4, 2).add(x, applyLinear(truth, x)).solve(0)
    expect(largestGap(found.weights, truth.weights)).toBeLessThan(1e-12)
    expect(found.bias[1]).toBeCloseTo(2, 11)
  })

  it('of reduced rank: the full rank changes nothing, a lower one is the best among maps of that rank', () => {
    const { x, y } = problem(200, 6, 5, 4)
    const accumulator = new RidgeAccumulator(6, 5).add(x, y)
    for (const bias of [true, false]) {
      const full = accumulator.solve(0, { bias })
      const same = accumulator.solve(0, { bias, rank: 5 })
      expect(largestGap(same.weights, full.weights)).toBeLessThan(1e-12)
      const low = accumulator.solve(0, { bias, rank: 2 })
      expect(low.factors?.down.columns).toBe(2)
      const loss = (map: LinearMap) => relativeSquaredGap(applyLinear(map, x), y)
      // The projection of the fit (about its mean, with bias) on its two leading directions loses the values it drops.
      const fit = applyLinear(full, x)
      if (bias) {
        const mean = multiply(matrix(1, 200, new Float64Array(200).fill(1 / 200)), fit)
        for (let i = 0; i < fit.data.length; i++) fit.data[i]! -= mean.data[i % 5]!
      }
      const dropped = svd(fit)
        .values.slice(2)
        .reduce((sum, s) => sum + s * s, 0)
      expect(loss(low)).toBeCloseTo(loss(full) + dropped / frobeniusNorm(y) ** 2, 10)
    }
  })

  it('refuses what cannot be solved', () => {
    const accumulator = new RidgeAccumulator(2, 1)
    expect(() => accumulator.solve(1e-3)).toThrow(/no rows/)
    accumulator.add(matrix(3, 2, [1, 2, 2, 4, 3, 6]), matrix(3, 1, [1, 2, 3]))
    expect(() => accumulator.solve(0)).toThrow(/Raise the damping/)
    expect(() => accumulator.solve(-1)).toThrow(MathError)
    expect(() => accumulator.solve(1, { rank: 2 })).toThrow(/rank = 2/)
    expect(() => accumulator.add(matrix(1, 3), matrix(1, 1))).toThrow(/x \[1, 3\]/)
    expect(() => accumulator.add(matrix(1, 2, [1, Number.NaN]), matrix(1, 1))).toThrow(/NaN/)
    expect(accumulator.rows).toBe(3)
  })
})

describe("AQUA-KV's predictors", () => {
  const fixture = readFixture('aquakv')
  const grids = readFixture('higgs-grids')

  /** HIGGS as the reference runs it: one block of 64, the block's length as its scale. */
  const higgs = (x: Matrix, grid: Matrix): Matrix => {
    const turned = hadamardTransform(x)
    const scales = Array.from({ length: x.rows }, (_, i) =>
      frobeniusNorm({ rows: 1, columns: x.columns, data: x.data.subarray(i * x.columns, (i + 1) * x.columns) }),
    )
    const each = (at: number) => scales[Math.floor(at / x.columns)] as number
    const pairs = matrix(
      turned.data.length / 2,
      2,
      turned.data.map((value, at) => value / each(at)),
    )
    const { index } = nearest(pairs, grid)
    const decoded = Float64Array.from(turned.data, (_, at) => grid.data[index[at >> 1]! * 2 + (at & 1)]! * each(at))
    const back = hadamardTransform(matrix(x.rows, x.columns, decoded))
    return matrix(
      x.rows,
      x.columns,
      back.data.map((value) => value / x.columns),
    )
  }
  const beside = (a: Matrix, b: Matrix): Matrix =>
    transpose(matrix(a.columns + b.columns, a.rows, [...transpose(a).data, ...transpose(b).data]))
  const plus = (a: Matrix, b: Matrix, sign: number): Matrix =>
    matrix(
      a.rows,
      a.columns,
      a.data.map((value, i) => value + sign * b.data[i]!),
    )
  const theirs = (weights: string, bias: string): LinearMap => ({
    weights: transpose(fixture(weights)),
    bias: fixture(bias).data,
  })

  it('match the weights that their code fits, layer after layer', () => {
    // Their float32 pseudo-inverse against a float64 solve: at most 7e-8 (the golden data's own scalars).
    const SAME_PREDICTION = 1e-6
    const relMse = {
      k1: 0.02450158253364538,
      v1: 0.15387845122335678,
      k2: 0.12201319939379959,
      v2: 0.21579535847383163,
    }
    let keys = higgs(fixture('calib_k0'), grids('eden2_256'))
    let values = higgs(fixture('calib_v0'), grids('eden2_256'))
    for (const layer of [1, 2] as const) {
      const fit = (inputs: Matrix, part: 'k' | 'v'): Matrix => {
        const target = fixture(`calib_${part}${layer}`)
        const map = new RidgeAccumulator(inputs.columns, 64).add(inputs, target).solve(1e-3)
        const predicted = applyLinear(map, inputs)
        const reference = applyLinear(theirs(`W${part}${layer}`, `b${part}${layer}`), inputs)
        expect(relativeSquaredGap(predicted, reference)).toBeLessThan(SAME_PREDICTION)
        expect(relativeSquaredGap(predicted, target) / relMse[`${part}${layer}`]).toBeCloseTo(1, 4)
        // Carried on with their predictions: a code that flips here would change every later fit.
        return plus(reference, higgs(plus(target, reference, -1), grids('eden2_16')), 1)
      }
      keys = fit(keys, 'k')
      values = fit(beside(keys, values), 'v')
    }
  })
})
