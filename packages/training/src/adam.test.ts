import { describe, expect, it } from 'vitest'
import { adamStep, freshMoments } from './adam'

/** float32 weights and moments against the formulas in float64. */
const ROUNDING = 1e-6

describe('AdamW', () => {
  it('is the algorithm of the paper, norms without decay', () => {
    const names = ['layers.0.attention.key', 'layers.0.mlpNorm', 'layers.0.mlp.up.bias']
    let values: Map<string, Float32Array> = new Map(names.map((name) => [name, Float32Array.of(0.5, -2, 3)]))
    const moments = freshMoments(values)
    const expected = names.map(() => [0.5, -2, 3])
    const [m, v] = [names.map(() => [0, 0, 0]), names.map(() => [0, 0, 0])]
    for (let step = 1; step <= 20; step++) {
      const gradient = [Math.sin(step), 100 * Math.cos(step), 1e-5 * step]
      const learningRate = 0.01 * step
      const gradients = new Map(names.map((name) => [name, Float32Array.from(gradient, (g) => g * 4)]))
      values = adamStep(values, gradients, moments, { step, learningRate, scale: 0.25 })
      for (let n = 0; n < names.length; n++)
        for (let i = 0; i < 3; i++) {
          m[n]![i] = 0.9 * m[n]![i]! + 0.1 * gradient[i]!
          v[n]![i] = 0.999 * v[n]![i]! + 0.001 * gradient[i]! ** 2
          const update = m[n]![i]! / (1 - 0.9 ** step) / (Math.sqrt(v[n]![i]! / (1 - 0.999 ** step)) + 1e-8)
          const decay = n === 0 ? 0.01 * expected[n]![i]! : 0
          expected[n]![i] = expected[n]![i]! - learningRate * (update + decay)
        }
    }
    names.forEach((name, n) => {
      values.get(name)!.forEach((x, i) => {
        expect(Math.abs(x / expected[n]![i]! - 1)).toBeLessThan(20 * ROUNDING)
      })
    })
  })

  it('leaves weights without gradients alone', () => {
    const values = new Map([['finalNorm', Float32Array.of(1)]])
    expect(adamStep(values, new Map(), freshMoments(values), { step: 1, learningRate: 1 }).size).toBe(0)
  })
})
