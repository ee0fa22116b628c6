/** Seeded random numbers: the same seed gives the same numbers on every engine and platform. */
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64'
import { uniformInt } from 'pure-rand/distribution/uniformInt'
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus'
import { requireInteger } from './errors'
import { exactLog } from './exact'

export interface Random {
  /** Uniform in [0, 1), a multiple of 2^-53. */
  uniform(): number
  /** Uniform integer in [0, below). @throws MathError unless `below` is an integer of at least 1. */
  integer(below: number): number
  /** N(0, 1). */
  gaussian(): number
  /** `[count]` draws of N(0, 1). */
  gaussians(count: number): Float64Array
  /** `[count]`: 0 … count-1 in random order (Fisher and Yates). */
  permutation(count: number): Int32Array
}

/** Numbers thrown away after seeding. */
const WARM_UP = 64

/**
 * A generator that depends on `seed` alone: xoroshiro128+ of pure-rand; Gaussians by Marsaglia's polar method
 * (Marsaglia and Bray, SIAM Review 6, 1964), with a logarithm that is the same on every engine.
 *
 * @param seed a 32-bit integer
 * @throws MathError when the seed is no 32-bit integer
 */
export function seededRandom(seed: number): Random {
  requireInteger('seededRandom', 'seed', seed, -(2 ** 31), 2 ** 32 - 1)
  const generator = xoroshiro128plus(seed | 0)
  // Its first numbers still show the bits of the seed (the very first is their complement).
  for (let i = 0; i < WARM_UP; i++) generator.next()
  let spare = Number.NaN

  const gaussian = (): number => {
    if (!Number.isNaN(spare)) {
      const second = spare
      spare = Number.NaN
      return second
    }
    for (;;) {
      const u = 2 * uniformFloat64(generator) - 1
      const v = 2 * uniformFloat64(generator) - 1
      const s = u * u + v * v
      if (s >= 1 || s === 0) continue
      const scale = Math.sqrt((-2 * exactLog(s)) / s)
      spare = v * scale
      return u * scale
    }
  }

  const integer = (below: number): number => {
    requireInteger('Random.integer', 'below', below, 1)
    return uniformInt(generator, 0, below - 1)
  }

  return {
    uniform: () => uniformFloat64(generator),
    integer,
    gaussian,
    gaussians(count) {
      requireInteger('Random.gaussians', 'count', count, 0)
      const draws = new Float64Array(count)
      for (let i = 0; i < count; i++) draws[i] = gaussian()
      return draws
    },
    permutation(count) {
      requireInteger('Random.permutation', 'count', count, 0)
      const order = Int32Array.from({ length: count }, (_, i) => i)
      for (let i = count - 1; i > 0; i--) {
        const j = uniformInt(generator, 0, i)
        const moved = order[i] ?? 0
        order[i] = order[j] ?? 0
        order[j] = moved
      }
      return order
    },
  }
}
