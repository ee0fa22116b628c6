// Queries into the space of latents, and what attention to latents gave back into that of heads: products of the rows of a KV head with its block
// [r, dim] of a matrix [r, width], whose rows lie `stride` bytes apart. Up to four rows at a time share what is loaded of the block.
import { sum4 } from './math'

/** Dot products of R rows of x with row `up`, `dim` floats. */
// @ts-ignore: decorator
@inline
function dotBlock(R: i32, x: usize, xStride: usize, up: usize, dim: i32, to: usize, toStride: usize): void {
  let a = f32x4.splat(0), b = a, c = a, d = a
  let k = 0
  for (; k + 4 <= dim; k += 4) {
    const at = <usize>k * 4
    const y = v128.load(up + at)
    const from = x + at
    a = f32x4.add(a, f32x4.mul(y, v128.load(from)))
    if (R > 1) b = f32x4.add(b, f32x4.mul(y, v128.load(from + xStride)))
    if (R > 2) c = f32x4.add(c, f32x4.mul(y, v128.load(from + 2 * xStride)))
    if (R > 3) d = f32x4.add(d, f32x4.mul(y, v128.load(from + 3 * xStride)))
  }
  let s = sum4(a), t = sum4(b), u = sum4(c), v = sum4(d)
  for (; k < dim; k++) {
    const at = <usize>k * 4
    const y = load<f32>(up + at)
    s += y * load<f32>(x + at)
    if (R > 1) t += y * load<f32>(x + xStride + at)
    if (R > 2) u += y * load<f32>(x + 2 * xStride + at)
    if (R > 3) v += y * load<f32>(x + 3 * xStride + at)
  }
  store<f32>(to, s)
  if (R > 1) store<f32>(to + toStride, t)
  if (R > 2) store<f32>(to + 2 * toStride, u)
  if (R > 3) store<f32>(to + 3 * toStride, v)
}

/** Sums over j of x[m][j] * up[j], for R rows of x with r numbers, eight, four or one channels at a time. */
// @ts-ignore: decorator
@inline
function sumBlock(R: i32, x: usize, xStride: usize, up: usize, stride: usize, r: i32, dim: i32, to: usize, toStride: usize): void {
  let k = 0
  for (; k + 8 <= dim; k += 8) {
    let a0 = f32x4.splat(0), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0
    let line = up + <usize>k * 4
    for (let at = x, end = x + <usize>r * 4; at < end; at += 4, line += stride) {
      const y0 = v128.load(line)
      const y1 = v128.load(line, 16)
      const xa = v128.load32_splat(at)
      a0 = f32x4.add(a0, f32x4.mul(xa, y0))
      a1 = f32x4.add(a1, f32x4.mul(xa, y1))
      if (R > 1) {
        const xb = v128.load32_splat(at + xStride)
        b0 = f32x4.add(b0, f32x4.mul(xb, y0))
        b1 = f32x4.add(b1, f32x4.mul(xb, y1))
      }
      if (R > 2) {
        const xc = v128.load32_splat(at + 2 * xStride)
        c0 = f32x4.add(c0, f32x4.mul(xc, y0))
        c1 = f32x4.add(c1, f32x4.mul(xc, y1))
      }
      if (R > 3) {
        const xd = v128.load32_splat(at + 3 * xStride)
        d0 = f32x4.add(d0, f32x4.mul(xd, y0))
        d1 = f32x4.add(d1, f32x4.mul(xd, y1))
      }
    }
    const out = to + <usize>k * 4
    v128.store(out, a0)
    v128.store(out, a1, 16)
    if (R > 1) {
      v128.store(out + toStride, b0)
      v128.store(out + toStride, b1, 16)
    }
    if (R > 2) {
      v128.store(out + 2 * toStride, c0)
      v128.store(out + 2 * toStride, c1, 16)
    }
    if (R > 3) {
      v128.store(out + 3 * toStride, d0)
      v128.store(out + 3 * toStride, d1, 16)
    }
  }
  for (; k < dim; k++) {
    for (let m = 0; m < R; m++) {
      let sum: f32 = 0
      let line = up + <usize>k * 4
      for (let at = x + <usize>m * xStride, end = at + <usize>r * 4; at < end; at += 4, line += stride) sum += load<f32>(at) * load<f32>(line)
      store<f32>(to + <usize>m * toStride + <usize>k * 4, sum)
    }
  }
}

// @ts-ignore: decorator
@inline
function rowsThrough(R: i32, back: bool, x: usize, up: usize, stride: usize, r: i32, dim: i32, to: usize): void {
  if (back) {
    sumBlock(R, x, <usize>r * 4, up, stride, r, dim, to, <usize>dim * 4)
    return
  }
  for (let j = 0; j < r; j++) dotBlock(R, x, <usize>dim * 4, up + <usize>j * stride, dim, to + <usize>j * 4, <usize>r * 4)
}

/**
 * x f32 [kvHeads, rows, dim] to [kvHeads, rows, r], or with `back` [kvHeads, rows, r] to [kvHeads, rows, dim], by up f32 [kvHeads / each, r, each * dim]: KV head
 * h has channels (h % each) * dim .. of block h / each.
 */
export function throughLatents(x: usize, up: usize, kvHeads: i32, each: i32, rows: i32, r: i32, dim: i32, back: i32, output: usize): void {
  const stride = <usize>(each * dim) * 4
  const from = <usize>(back ? r : dim) * 4
  const toWidth = <usize>(back ? dim : r) * 4
  for (let h = 0; h < kvHeads; h++) {
    const block = up + <usize>(h / each) * <usize>r * stride + <usize>((h % each) * dim) * 4
    for (let m = 0; m < rows; ) {
      const left = rows - m
      if (left >= 4) {
        rowsThrough(4, back != 0, x, block, stride, r, dim, output)
        m += 4
        x += 4 * from
        output += 4 * toWidth
      } else if (left == 3) {
        rowsThrough(3, back != 0, x, block, stride, r, dim, output)
        m += 3
        x += 3 * from
        output += 3 * toWidth
      } else if (left == 2) {
        rowsThrough(2, back != 0, x, block, stride, r, dim, output)
        m += 2
        x += 2 * from
        output += 2 * toWidth
      } else {
        rowsThrough(1, back != 0, x, block, stride, r, dim, output)
        m += 1
        x += from
        output += toWidth
      }
    }
  }
}
