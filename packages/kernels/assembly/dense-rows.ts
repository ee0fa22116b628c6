// Products of a few query rows (1 to 3) with rows of f32, four results at a time. `H` is a constant: the compiler drops what it does not need.
// `next`, `nextBytes`: rows to bring into the cache meanwhile, a quarter of their memory at each of four places (0: none); what is returned keeps those loads.
// Both add to what is in `output`. Rows start at `rows`, `stride` bytes apart, and `width` is a multiple of four.
import { sums4 } from './transpose'

/** output[h][r] += sum over k < width of x[h][k] * rows[r][k], for r < count. Writes up to three floats past `count`, unchanged. */
// @ts-ignore: decorator
@inline
function dotRowsOf(H: i32, x: usize, xStride: usize, rows: usize, stride: usize, count: i32, width: i32, output: usize, outputStride: usize, next: usize, nextBytes: usize): i32 {
  const bytes = <usize>width * 4
  const strip = nextBytes >> 2
  const share = (strip / <usize>max(1, (count + 3) >> 2) + 63) & ~63
  const stop = next + strip
  let ahead = next, seen = 0
  for (let r = 0; r < count; r += 4) {
    for (const end = min(stop, ahead + share); ahead < end; ahead += 64) seen |= touchStrips(ahead, strip)
    const valid = count - r
    const r0 = rows + <usize>r * stride
    const r1 = valid > 1 ? r0 + stride : r0
    const r2 = valid > 2 ? r1 + stride : r0
    const r3 = valid > 3 ? r2 + stride : r0
    let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0
    let b0 = a0, b1 = a0, b2 = a0, b3 = a0
    let c0 = a0, c1 = a0, c2 = a0, c3 = a0
    let k: usize = 0
    let y = a0
    for (; k + 64 <= bytes; k += 64) {
      const at = x + k
      const atB = at + xStride
      const atC = atB + xStride
      const y0 = r0 + k
      const y1 = r1 + k
      const y2 = r2 + k
      const y3 = r3 + k
      y = v128.load(y0, 0)
      a0 = f32x4.add(a0, f32x4.mul(v128.load(at, 0), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load(atB, 0), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load(atC, 0), y))
      y = v128.load(y1, 0)
      a1 = f32x4.add(a1, f32x4.mul(v128.load(at, 0), y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(v128.load(atB, 0), y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(v128.load(atC, 0), y))
      y = v128.load(y2, 0)
      a2 = f32x4.add(a2, f32x4.mul(v128.load(at, 0), y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(v128.load(atB, 0), y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(v128.load(atC, 0), y))
      y = v128.load(y3, 0)
      a3 = f32x4.add(a3, f32x4.mul(v128.load(at, 0), y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(v128.load(atB, 0), y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(v128.load(atC, 0), y))
      y = v128.load(y0, 16)
      a0 = f32x4.add(a0, f32x4.mul(v128.load(at, 16), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load(atB, 16), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load(atC, 16), y))
      y = v128.load(y1, 16)
      a1 = f32x4.add(a1, f32x4.mul(v128.load(at, 16), y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(v128.load(atB, 16), y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(v128.load(atC, 16), y))
      y = v128.load(y2, 16)
      a2 = f32x4.add(a2, f32x4.mul(v128.load(at, 16), y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(v128.load(atB, 16), y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(v128.load(atC, 16), y))
      y = v128.load(y3, 16)
      a3 = f32x4.add(a3, f32x4.mul(v128.load(at, 16), y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(v128.load(atB, 16), y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(v128.load(atC, 16), y))
      y = v128.load(y0, 32)
      a0 = f32x4.add(a0, f32x4.mul(v128.load(at, 32), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load(atB, 32), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load(atC, 32), y))
      y = v128.load(y1, 32)
      a1 = f32x4.add(a1, f32x4.mul(v128.load(at, 32), y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(v128.load(atB, 32), y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(v128.load(atC, 32), y))
      y = v128.load(y2, 32)
      a2 = f32x4.add(a2, f32x4.mul(v128.load(at, 32), y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(v128.load(atB, 32), y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(v128.load(atC, 32), y))
      y = v128.load(y3, 32)
      a3 = f32x4.add(a3, f32x4.mul(v128.load(at, 32), y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(v128.load(atB, 32), y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(v128.load(atC, 32), y))
      y = v128.load(y0, 48)
      a0 = f32x4.add(a0, f32x4.mul(v128.load(at, 48), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load(atB, 48), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load(atC, 48), y))
      y = v128.load(y1, 48)
      a1 = f32x4.add(a1, f32x4.mul(v128.load(at, 48), y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(v128.load(atB, 48), y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(v128.load(atC, 48), y))
      y = v128.load(y2, 48)
      a2 = f32x4.add(a2, f32x4.mul(v128.load(at, 48), y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(v128.load(atB, 48), y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(v128.load(atC, 48), y))
      y = v128.load(y3, 48)
      a3 = f32x4.add(a3, f32x4.mul(v128.load(at, 48), y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(v128.load(atB, 48), y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(v128.load(atC, 48), y))
    }
    for (; k < bytes; k += 16) {
      y = v128.load(r0 + k)
      a0 = f32x4.add(a0, f32x4.mul(v128.load(x + k), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load(x + xStride + k), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load(x + 2 * xStride + k), y))
      y = v128.load(r1 + k)
      a1 = f32x4.add(a1, f32x4.mul(v128.load(x + k), y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(v128.load(x + xStride + k), y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(v128.load(x + 2 * xStride + k), y))
      y = v128.load(r2 + k)
      a2 = f32x4.add(a2, f32x4.mul(v128.load(x + k), y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(v128.load(x + xStride + k), y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(v128.load(x + 2 * xStride + k), y))
      y = v128.load(r3 + k)
      a3 = f32x4.add(a3, f32x4.mul(v128.load(x + k), y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(v128.load(x + xStride + k), y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(v128.load(x + 2 * xStride + k), y))
    }
    const lanes = i32x4.gt_s(i32x4.splat(valid), i32x4(0, 1, 2, 3))
    const to = output + <usize>r * 4
    addTo(to, v128.and(sums4(a0, a1, a2, a3), lanes))
    if (H > 1) addTo(to + outputStride, v128.and(sums4(b0, b1, b2, b3), lanes))
    if (H > 2) addTo(to + 2 * outputStride, v128.and(sums4(c0, c1, c2, c3), lanes))
  }
  return seen
}

/** output[h][k] += sum over r < count of x[h][r] * rows[r][k], for k < width. */
// @ts-ignore: decorator
@inline
function addRowsOf(H: i32, x: usize, xStride: usize, rows: usize, stride: usize, count: i32, width: i32, output: usize, outputStride: usize, next: usize, nextBytes: usize): i32 {
  const end = x + <usize>count * 4
  const strip = nextBytes >> 2
  const share = strip / <usize>max(1, ((count + 3) >> 2) * (width >> 4))
  let ahead = next, seen = 0
  let k = 0
  for (; k + 16 <= width; k += 16) {
    const to = output + <usize>k * 4
    let a0 = v128.load(to), a1 = v128.load(to, 16), a2 = v128.load(to, 32), a3 = v128.load(to, 48)
    let b0 = a0, b1 = a0, b2 = a0, b3 = a0
    let c0 = a0, c1 = a0, c2 = a0, c3 = a0
    if (H > 1) { b0 = v128.load(to + outputStride); b1 = v128.load(to + outputStride, 16); b2 = v128.load(to + outputStride, 32); b3 = v128.load(to + outputStride, 48) }
    if (H > 2) { c0 = v128.load(to + 2 * outputStride); c1 = v128.load(to + 2 * outputStride, 16); c2 = v128.load(to + 2 * outputStride, 32); c3 = v128.load(to + 2 * outputStride, 48) }
    let row = rows + <usize>k * 4
    let y = a0
    let at = x
    for (; at + 16 <= end; at += 16) {
      if (share) {
        seen |= touchStrips(ahead, strip)
        ahead += share
      }
      const atB = at + xStride
      const atC = atB + xStride
      y = v128.load(row, 0)
      a0 = f32x4.add(a0, f32x4.mul(v128.load32_splat(at, 0), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load32_splat(atB, 0), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load32_splat(atC, 0), y))
      y = v128.load(row, 16)
      a1 = f32x4.add(a1, f32x4.mul(v128.load32_splat(at, 0), y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(v128.load32_splat(atB, 0), y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(v128.load32_splat(atC, 0), y))
      y = v128.load(row, 32)
      a2 = f32x4.add(a2, f32x4.mul(v128.load32_splat(at, 0), y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(v128.load32_splat(atB, 0), y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(v128.load32_splat(atC, 0), y))
      y = v128.load(row, 48)
      a3 = f32x4.add(a3, f32x4.mul(v128.load32_splat(at, 0), y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(v128.load32_splat(atB, 0), y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(v128.load32_splat(atC, 0), y))
      row += stride
      y = v128.load(row, 0)
      a0 = f32x4.add(a0, f32x4.mul(v128.load32_splat(at, 4), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load32_splat(atB, 4), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load32_splat(atC, 4), y))
      y = v128.load(row, 16)
      a1 = f32x4.add(a1, f32x4.mul(v128.load32_splat(at, 4), y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(v128.load32_splat(atB, 4), y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(v128.load32_splat(atC, 4), y))
      y = v128.load(row, 32)
      a2 = f32x4.add(a2, f32x4.mul(v128.load32_splat(at, 4), y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(v128.load32_splat(atB, 4), y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(v128.load32_splat(atC, 4), y))
      y = v128.load(row, 48)
      a3 = f32x4.add(a3, f32x4.mul(v128.load32_splat(at, 4), y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(v128.load32_splat(atB, 4), y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(v128.load32_splat(atC, 4), y))
      row += stride
      y = v128.load(row, 0)
      a0 = f32x4.add(a0, f32x4.mul(v128.load32_splat(at, 8), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load32_splat(atB, 8), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load32_splat(atC, 8), y))
      y = v128.load(row, 16)
      a1 = f32x4.add(a1, f32x4.mul(v128.load32_splat(at, 8), y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(v128.load32_splat(atB, 8), y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(v128.load32_splat(atC, 8), y))
      y = v128.load(row, 32)
      a2 = f32x4.add(a2, f32x4.mul(v128.load32_splat(at, 8), y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(v128.load32_splat(atB, 8), y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(v128.load32_splat(atC, 8), y))
      y = v128.load(row, 48)
      a3 = f32x4.add(a3, f32x4.mul(v128.load32_splat(at, 8), y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(v128.load32_splat(atB, 8), y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(v128.load32_splat(atC, 8), y))
      row += stride
      y = v128.load(row, 0)
      a0 = f32x4.add(a0, f32x4.mul(v128.load32_splat(at, 12), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load32_splat(atB, 12), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load32_splat(atC, 12), y))
      y = v128.load(row, 16)
      a1 = f32x4.add(a1, f32x4.mul(v128.load32_splat(at, 12), y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(v128.load32_splat(atB, 12), y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(v128.load32_splat(atC, 12), y))
      y = v128.load(row, 32)
      a2 = f32x4.add(a2, f32x4.mul(v128.load32_splat(at, 12), y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(v128.load32_splat(atB, 12), y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(v128.load32_splat(atC, 12), y))
      y = v128.load(row, 48)
      a3 = f32x4.add(a3, f32x4.mul(v128.load32_splat(at, 12), y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(v128.load32_splat(atB, 12), y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(v128.load32_splat(atC, 12), y))
      row += stride
    }
    for (; at < end; at += 4, row += stride) {
      const atB = at + xStride
      const atC = atB + xStride
      y = v128.load(row, 0)
      a0 = f32x4.add(a0, f32x4.mul(v128.load32_splat(at, 0), y))
      if (H > 1) b0 = f32x4.add(b0, f32x4.mul(v128.load32_splat(atB, 0), y))
      if (H > 2) c0 = f32x4.add(c0, f32x4.mul(v128.load32_splat(atC, 0), y))
      y = v128.load(row, 16)
      a1 = f32x4.add(a1, f32x4.mul(v128.load32_splat(at, 0), y))
      if (H > 1) b1 = f32x4.add(b1, f32x4.mul(v128.load32_splat(atB, 0), y))
      if (H > 2) c1 = f32x4.add(c1, f32x4.mul(v128.load32_splat(atC, 0), y))
      y = v128.load(row, 32)
      a2 = f32x4.add(a2, f32x4.mul(v128.load32_splat(at, 0), y))
      if (H > 1) b2 = f32x4.add(b2, f32x4.mul(v128.load32_splat(atB, 0), y))
      if (H > 2) c2 = f32x4.add(c2, f32x4.mul(v128.load32_splat(atC, 0), y))
      y = v128.load(row, 48)
      a3 = f32x4.add(a3, f32x4.mul(v128.load32_splat(at, 0), y))
      if (H > 1) b3 = f32x4.add(b3, f32x4.mul(v128.load32_splat(atB, 0), y))
      if (H > 2) c3 = f32x4.add(c3, f32x4.mul(v128.load32_splat(atC, 0), y))
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
  return seen
}

/** Reads a word of each of four cache lines, `strip` bytes apart. */
// @ts-ignore: decorator
@inline
function touchStrips(at: usize, strip: usize): i32 {
  return load<i32>(at) | load<i32>(at + strip) | load<i32>(at + 2 * strip) | load<i32>(at + 3 * strip)
}

// @ts-ignore: decorator
@inline
function addTo(address: usize, x: v128): void {
  v128.store(address, f32x4.add(v128.load(address), x))
}

/** `dotRowsOf` for h = 1, 2 or 3 query rows. */
export function dotRows(h: i32, x: usize, xStride: usize, rows: usize, stride: usize, count: i32, width: i32, output: usize, outputStride: usize, next: usize, nextBytes: usize): i32 {
  if (h == 3) return dotRowsOf(3, x, xStride, rows, stride, count, width, output, outputStride, next, nextBytes)
  if (h == 2) return dotRowsOf(2, x, xStride, rows, stride, count, width, output, outputStride, next, nextBytes)
  return dotRowsOf(1, x, xStride, rows, stride, count, width, output, outputStride, next, nextBytes)
}

/** `addRowsOf` for h = 1, 2 or 3 query rows. */
export function addRows(h: i32, x: usize, xStride: usize, rows: usize, stride: usize, count: i32, width: i32, output: usize, outputStride: usize, next: usize, nextBytes: usize): i32 {
  if (h == 3) return addRowsOf(3, x, xStride, rows, stride, count, width, output, outputStride, next, nextBytes)
  if (h == 2) return addRowsOf(2, x, xStride, rows, stride, count, width, output, outputStride, next, nextBytes)
  return addRowsOf(1, x, xStride, rows, stride, count, width, output, outputStride, next, nextBytes)
}
