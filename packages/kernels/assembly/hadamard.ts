// Hadamard transform of blocks of values (Sylvester's matrix, natural order): stages of distance 1, 2, 4, ..., in this order, so that results are the same bits everywhere.

/** Four values: stages of distance 1 and 2. */
// @ts-ignore: decorator
@inline
function four(x: v128): v128 {
  const odd = v128.xor(x, i32x4(0, 0x80000000, 0, 0x80000000))
  const near = f32x4.add(odd, i8x16.shuffle(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11))
  const far = v128.xor(near, i32x4(0, 0, 0x80000000, 0x80000000))
  return f32x4.add(far, i8x16.shuffle(near, near, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7))
}

/** Unnormalised, in place, on each block of `block` (a power of two) of `size` values. */
export function butterfly(values: usize, size: i32, block: i32): void {
  const end = values + <usize>size * 4
  if (block < 4) {
    if (block == 2) {
      for (let at = values; at < end; at += 8) {
        const a = load<f32>(at)
        const b = load<f32>(at, 4)
        store<f32>(at, a + b)
        store<f32>(at, a - b, 4)
      }
    }
    return
  }
  const blockBytes = <usize>block * 4
  for (let at = values; at < end; at += 16) v128.store(at, four(v128.load(at)))
  let distance: usize = 16
  // Two stages at a time: half the loads and stores.
  for (; distance << 1 < blockBytes; distance <<= 2) {
    for (let quad = values; quad < end; quad += distance << 2) {
      for (let at = quad; at < quad + distance; at += 16) {
        const a = v128.load(at)
        const b = v128.load(at + distance)
        const c = v128.load(at + (distance << 1))
        const d = v128.load(at + (distance << 1) + distance)
        const p = f32x4.add(a, b)
        const q = f32x4.sub(a, b)
        const r = f32x4.add(c, d)
        const s = f32x4.sub(c, d)
        v128.store(at, f32x4.add(p, r))
        v128.store(at + distance, f32x4.add(q, s))
        v128.store(at + (distance << 1), f32x4.sub(p, r))
        v128.store(at + (distance << 1) + distance, f32x4.sub(q, s))
      }
    }
  }
  if (distance >= blockBytes) return
  for (let pair = values; pair < end; pair += distance << 1) {
    for (let at = pair; at < pair + distance; at += 16) {
      const a = v128.load(at)
      const b = v128.load(at + distance)
      v128.store(at, f32x4.add(a, b))
      v128.store(at + distance, f32x4.sub(a, b))
    }
  }
}

/** Orthonormal: rows to output, `size` values. */
export function hadamard(rows: usize, output: usize, size: i32, block: i32): void {
  memory.copy(output, rows, <usize>size * 4)
  butterfly(output, size, block)
  const factor = <f32>(1 / Math.sqrt(<f64>block))
  for (let at = output; at < output + <usize>size * 4; at += 4) store<f32>(at, load<f32>(at) * factor)
}
