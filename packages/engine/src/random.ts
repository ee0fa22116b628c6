// A small seeded generator with the same numbers everywhere: xoshiro128** 1.1 (Blackman and Vigna, public domain,
// https://prng.di.unimi.it/xoshiro128starstar.c), its state filled from the seed by splitmix32.

/** Uniform numbers in [0, 1), 53 bits each. */
export type UniformRandom = () => number

/** The generator of a seed; any integer, of which the lowest 32 bits count. */
export function uniformRandom(seed: number): UniformRandom {
  const state = new Uint32Array(4)
  let filler = seed >>> 0
  for (let i = 0; i < 4; i++) {
    filler = (filler + 0x9e3779b9) >>> 0
    let mixed = Math.imul(filler ^ (filler >>> 16), 0x21f0aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97)
    state[i] = mixed ^ (mixed >>> 15)
  }
  return () => {
    const high = nextWord(state) >>> 5
    return (high * 2 ** 26 + (nextWord(state) >>> 6)) / 2 ** 53
  }
}

/** One step of xoshiro128**; changes the state, four words that are not all zero. Returns 32 bits. */
export function nextWord(state: Uint32Array): number {
  const [a = 0, b = 0, c = 0, d = 0] = state
  const product = Math.imul(b, 5)
  const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0
  const c2 = c ^ a
  const d2 = d ^ b
  state[0] = a ^ d2
  state[1] = b ^ c2
  state[2] = c2 ^ (b << 9)
  state[3] = (d2 << 11) | (d2 >>> 21)
  return result
}
