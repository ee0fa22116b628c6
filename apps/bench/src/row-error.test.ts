import { describe, expect, it } from 'vitest'
import { relativeError } from './row-error'

describe('relativeError', () => {
  // Two heads of three rows of two numbers; the first row of each head is far off.
  const x = Float32Array.of(1, 1, 3, 4, 0, 5, 1, 1, 6, 8, 10, 0)
  const y = Float32Array.of(9, 9, 3, 5, 0, 5, 9, 9, 6, 8, 10, 2)

  it('leaves the first rows of every head out', () => {
    expect(relativeError(x, y, 2, 3, 1)).toBeCloseTo((1 + 4) / (25 + 25 + 100 + 100), 12)
    expect(relativeError(x, y, 2, 3, 0)).toBeCloseTo((4 * 64 + 1 + 4) / 254, 12)
  })

  it('refuses arrays of different sizes', () => {
    expect(() => relativeError(x, y.subarray(2), 2, 3, 1)).toThrow(/12 numbers were given and 10 are read/)
  })
})
