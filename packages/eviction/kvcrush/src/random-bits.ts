/** Bits of the Mersenne Twister MT19937, as the C++ standard library draws them: the top bit of each number. */

const [SIZE, MIDDLE] = [624, 397]

/** @param seed 0 to 2^32 - 1 */
export function randomBits(count: number, seed: number): Uint8Array {
  const state = new Uint32Array(SIZE)
  state[0] = seed
  for (let i = 1; i < SIZE; i++) {
    const last = state[i - 1] ?? 0
    state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i
  }
  return Uint8Array.from({ length: count }, (_, i) => {
    if (i % SIZE === 0) twist(state)
    return temper(state[i % SIZE] ?? 0) >>> 31
  })
}

function twist(state: Uint32Array): void {
  for (let i = 0; i < SIZE; i++) {
    const joined = ((state[i] ?? 0) & 0x80000000) | ((state[(i + 1) % SIZE] ?? 0) & 0x7fffffff)
    state[i] = (state[(i + MIDDLE) % SIZE] ?? 0) ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0)
  }
}

function temper(x: number): number {
  let y = x
  y ^= y >>> 11
  y ^= (y << 7) & 0x9d2c5680
  y ^= (y << 15) & 0xefc60000
  return y ^ (y >>> 18)
}
