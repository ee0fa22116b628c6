// Rotary position embedding, half-split pairs (j, j + pairs); channels from 2 * pairs on pass through.

// @ts-ignore: decorator
@inline
export function rotateRow(x: usize, cos: usize, sin: usize, output: usize, halfBytes: usize, sign: f32): void {
  const signs = f32x4.splat(sign)
  const vectorEnd = halfBytes & ~15
  let at: usize = 0
  for (; at < vectorEnd; at += 16) {
    const first = v128.load(x + at)
    const second = v128.load(x + halfBytes + at)
    const c = v128.load(cos + at)
    const s = f32x4.mul(v128.load(sin + at), signs)
    v128.store(output + at, f32x4.sub(f32x4.mul(first, c), f32x4.mul(second, s)))
    v128.store(output + halfBytes + at, f32x4.add(f32x4.mul(second, c), f32x4.mul(first, s)))
  }
  for (; at < halfBytes; at += 4) {
    const first = f32.load(x + at)
    const second = f32.load(x + halfBytes + at)
    const c = f32.load(cos + at)
    const s = f32.load(sin + at) * sign
    f32.store(output + at, first * c - second * s)
    f32.store(output + halfBytes + at, second * c + first * s)
  }
}

/** x, output: [heads, rows, dim]; cos, sin: [positions, pairs]; positions: int32 [rows], or [heads, rows] when `perHead` is 1; sign: 1, or -1 for the inverse. */
export function rope(x: usize, cos: usize, sin: usize, positions: usize, output: usize, heads: i32, rows: i32, dim: i32, pairs: i32, perHead: i32, sign: f32): void {
  const halfBytes = <usize>pairs * 4
  const rowBytes = <usize>dim * 4
  for (let head = 0; head < heads; head++) {
    const headPositions = perHead ? positions + <usize>head * <usize>rows * 4 : positions
    for (let row = 0; row < rows; row++) {
      const table = <usize>i32.load(headPositions + <usize>row * 4) * halfBytes
      rotateRow(x, cos + table, sin + table, output, halfBytes, sign)
      for (let at = halfBytes * 2; at < rowBytes; at += 4) f32.store(output + at, f32.load(x + at))
      x += rowBytes
      output += rowBytes
    }
  }
}
