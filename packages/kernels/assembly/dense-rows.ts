// Products of a few query rows (1 to 3) with rows of f32, four results at a time. `H` is a constant: the compiler drops what it does not need.
// Both add to what is in `output`. Rows start at `rows`, `stride` bytes apart, and `width` is a multiple of four.
import { sums4 } from './transpose'

/** output[h][r] += sum over k < width of x[h][k] * rows[r][k], for r < count. Writes up to three floats past `count`, unchanged. */
// @ts-ignore: decorator
@inline
function dotRowsOf(H: i32, x: usize, xStride: usize, rows: usize, stride: usize, count: i32, width: i32, output: usize, outputStride: usize): void {
  const bytes = <usize>width * 4
  for (let r = 0; r < count; r += 4) {
    const valid = count - r
    const r0 = rows + <usize>r * stride
    const r1 = valid > 1 ? r0 + stride : r0
    const r2 = valid > 2 ? r1 + stride : r0
    const r3 = valid > 3 ? r2 + stride : r0
    let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0
    let b0 = a0, b1 = a0, b2 = a0, b3 = a0
    let c0 = a0, c1 = a0, c2 = a0, c3 = a0
    for (let k: usize = 0; k < bytes; k += 16) {
      const xa = v128.load(x + k)
      const xb = H > 1 ? v128.load(x + xStride + k) : xa
      const xc = H > 2 ? v128.load(x + 2 * xStride + k) : xa
      let y = v128.load(r0 + k)
      a0 = f32x4.add(a0, f32x4.mul(xa, y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(xb, y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(xc, y))
      y = v128.load(r1 + k)
      a1 = f32x4.add(a1, f32x4.mul(xa, y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(xb, y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(xc, y))
      y = v128.load(r2 + k)
      a2 = f32x4.add(a2, f32x4.mul(xa, y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(xb, y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(xc, y))
      y = v128.load(r3 + k)
      a3 = f32x4.add(a3, f32x4.mul(xa, y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(xb, y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(xc, y))
    }
    const lanes = i32x4.gt_s(i32x4.splat(valid), i32x4(0, 1, 2, 3))
    const to = output + <usize>r * 4
    addTo(to, v128.and(sums4(a0, a1, a2, a3), lanes))
    if (H > 1) addTo(to + outputStride, v128.and(sums4(b0, b1, b2, b3), lanes))
    if (H > 2) addTo(to + 2 * outputStride, v128.and(sums4(c0, c1, c2, c3), lanes))
  }
}

/** output[h][k] += sum over r < count of x[h][r] * rows[r][k], for k < width. */
// @ts-ignore: decorator
@inline
function addRowsOf(H: i32, x: usize, xStride: usize, rows: usize, stride: usize, count: i32, width: i32, output: usize, outputStride: usize): void {
  const end = x + <usize>count * 4
  let k = 0
  for (; k + 16 <= width; k += 16) {
    const to = output + <usize>k * 4
    let a0 = v128.load(to), a1 = v128.load(to, 16), a2 = v128.load(to, 32), a3 = v128.load(to, 48)
    let b0 = a0, b1 = a0, b2 = a0, b3 = a0
    let c0 = a0, c1 = a0, c2 = a0, c3 = a0
    if (H > 1) { b0 = v128.load(to + outputStride); b1 = v128.load(to + outputStride, 16); b2 = v128.load(to + outputStride, 32); b3 = v128.load(to + outputStride, 48) }
    if (H > 2) { c0 = v128.load(to + 2 * outputStride); c1 = v128.load(to + 2 * outputStride, 16); c2 = v128.load(to + 2 * outputStride, 32); c3 = v128.load(to + 2 * outputStride, 48) }
    let row = rows + <usize>k * 4
    for (let at = x; at < end; at += 4, row += stride) {
      const xa = v128.load32_splat(at)
      const xb = H > 1 ? v128.load32_splat(at + xStride) : xa
      const xc = H > 2 ? v128.load32_splat(at + 2 * xStride) : xa
      let y = v128.load(row)
      a0 = f32x4.add(a0, f32x4.mul(xa, y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(xb, y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(xc, y))
      y = v128.load(row, 16)
      a1 = f32x4.add(a1, f32x4.mul(xa, y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(xb, y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(xc, y))
      y = v128.load(row, 32)
      a2 = f32x4.add(a2, f32x4.mul(xa, y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(xb, y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(xc, y))
      y = v128.load(row, 48)
      a3 = f32x4.add(a3, f32x4.mul(xa, y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(xb, y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(xc, y))
    }
    v128.store(to, a0); v128.store(to, a1, 16); v128.store(to, a2, 32); v128.store(to, a3, 48)
    if (H > 1) { v128.store(to + outputStride, b0); v128.store(to + outputStride, b1, 16); v128.store(to + outputStride, b2, 32); v128.store(to + outputStride, b3, 48) }
    if (H > 2) { v128.store(to + 2 * outputStride, c0); v128.store(to + 2 * outputStride, c1, 16); v128.store(to + 2 * outputStride, c2, 32); v128.store(to + 2 * outputStride, c3, 48) }
  }
  for (; k < width; k += 4) {
    const to = output + <usize>k * 4
    let a0 = v128.load(to)
    let b0 = H > 1 ? v128.load(to + outputStride) : a0
    let c0 = H > 2 ? v128.load(to + 2 * outputStride) : a0
    let row = rows + <usize>k * 4
    for (let at = x; at < end; at += 4, row += stride) {
      const y = v128.load(row)
      a0 = f32x4.add(a0, f32x4.mul(v128.load32_splat(at), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load32_splat(at + xStride), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load32_splat(at + 2 * xStride), y))
    }
    v128.store(to, a0)
    if (H > 1) v128.store(to + outputStride, b0)
    if (H > 2) v128.store(to + 2 * outputStride, c0)
  }
}

// @ts-ignore: decorator
@inline
function addTo(address: usize, x: v128): void {
  v128.store(address, f32x4.add(v128.load(address), x))
}

/** `dotRowsOf` for h = 1, 2 or 3 query rows. */
export function dotRows(h: i32, x: usize, xStride: usize, rows: usize, stride: usize, count: i32, width: i32, output: usize, outputStride: usize): void {
  if (h == 3) dotRowsOf(3, x, xStride, rows, stride, count, width, output, outputStride)
  else if (h == 2) dotRowsOf(2, x, xStride, rows, stride, count, width, output, outputStride)
  else dotRowsOf(1, x, xStride, rows, stride, count, width, output, outputStride)
}

/** `addRowsOf` for h = 1, 2 or 3 query rows. */
export function addRows(h: i32, x: usize, xStride: usize, rows: usize, stride: usize, count: i32, width: i32, output: usize, outputStride: usize): void {
  if (h == 3) addRowsOf(3, x, xStride, rows, stride, count, width, output, outputStride)
  else if (h == 2) addRowsOf(2, x, xStride, rows, stride, count, width, output, outputStride)
  else addRowsOf(1, x, xStride, rows, stride, count, width, output, outputStride)
}
