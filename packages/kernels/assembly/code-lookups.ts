// Products of a few query rows (1 to 3) with codebook rows in which a byte stands for four channels, without unpacking them to memory: the four
// channels are loaded from the table where the sums need them, and a row's factor is applied to its score or its weight. `H` is a constant.
import { Segment } from './attention-call'
import { fillLookup, normsOf } from './codebook-rows'
import { unpackHalves } from './half'
import { sums4 } from './transpose'

/** True when `dotLookups` and `addLookups` can read the segment: whole bytes, one scale a row with those of the rows side by side, and no range or outlier. */
export function readsLookups(segment: Segment, dim: i32): bool {
  return !segment.ranged && !segment.room && !(segment.merged && segment.metadata) && segment.vector * 2 == segment.bits && segment.bits <= 8 && segment.group == dim && (dim & 3) == 0 && (segment.bits == 8 || segment.tableUnit == 0)
}

/** Table of vectors of a head, indexed by byte. */
export function lookupTable(segment: Segment, head: i32, lookup: usize): usize {
  const table = <usize>segment.table + <usize>head * segment.tableHead
  if (segment.bits == 8) return table
  fillLookup(table, segment.vector, segment.bits, segment.entries, lookup)
  return lookup + 16
}

/**
 * Factors of rows row..row+count with one scale each, and four zeros after them. Norms of rows lie side by side, as f32 or as halves, of
 * which up to two bytes past the last are read: the allocator always has them.
 */
export function rowFactors(segment: Segment, head: i32, row: i32, count: i32, to: usize): void {
  const factor = f32x4.splat(segment.factor)
  const norms = normsOf(segment, head, row)
  const bytes = <usize>count * 4
  if (!segment.metadata) for (let i: usize = 0; i < bytes; i += 16) v128.store(to + i, factor)
  else {
    if (segment.wide) memory.copy(to, norms, bytes)
    else unpackHalves(norms, to, count)
    for (let i: usize = 0; i < bytes; i += 16) v128.store(to + i, f32x4.mul(v128.load(to + i), factor))
  }
  v128.store(to + <usize>count * 4, f32x4.splat(0))
}

// @ts-ignore: decorator
@inline
function byteAt(table: usize, address: usize): v128 {
  return v128.load(table + ((<usize>load<u8>(address)) << 4))
}

// @ts-ignore: decorator
@inline
function dotLookupsOf(H: i32, x: usize, xStride: usize, codes: usize, codeStride: usize, table: usize, unitBytes: usize, factors: usize, count: i32, dim: i32, output: usize, outputStride: usize): void {
  const bytes = <usize>dim >> 2
  for (let r = 0; r < count; r += 4) {
    const valid = count - r
    let c0 = codes + <usize>r * codeStride
    let c1 = valid > 1 ? c0 + codeStride : c0
    let c2 = valid > 2 ? c1 + codeStride : c0
    let c3 = valid > 3 ? c2 + codeStride : c0
    let p0 = f32x4.splat(0), p1 = p0, p2 = p0, p3 = p0
    let q0 = p0, q1 = p0, q2 = p0, q3 = p0
    let s0 = p0, s1 = p0, s2 = p0, s3 = p0
    let entries = table
    let at = x
    for (const end = c0 + bytes; c0 < end; c0++, c1++, c2++, c3++, at += 16, entries += unitBytes) {
      const xa = v128.load(at)
      const xb = H > 1 ? v128.load(at + xStride) : xa
      const xc = H > 2 ? v128.load(at + 2 * xStride) : xa
      let y = byteAt(entries, c0)
      p0 = f32x4.add(p0, f32x4.mul(xa, y))
      if (H > 1) q0 = f32x4.add(q0, f32x4.mul(xb, y))
      if (H > 2) s0 = f32x4.add(s0, f32x4.mul(xc, y))
      y = byteAt(entries, c1)
      p1 = f32x4.add(p1, f32x4.mul(xa, y))
      if (H > 1) q1 = f32x4.add(q1, f32x4.mul(xb, y))
      if (H > 2) s1 = f32x4.add(s1, f32x4.mul(xc, y))
      y = byteAt(entries, c2)
      p2 = f32x4.add(p2, f32x4.mul(xa, y))
      if (H > 1) q2 = f32x4.add(q2, f32x4.mul(xb, y))
      if (H > 2) s2 = f32x4.add(s2, f32x4.mul(xc, y))
      y = byteAt(entries, c3)
      p3 = f32x4.add(p3, f32x4.mul(xa, y))
      if (H > 1) q3 = f32x4.add(q3, f32x4.mul(xb, y))
      if (H > 2) s3 = f32x4.add(s3, f32x4.mul(xc, y))
    }
    const factor = v128.and(v128.load(factors + <usize>r * 4), i32x4.gt_s(i32x4.splat(valid), i32x4(0, 1, 2, 3)))
    const to = output + <usize>r * 4
    addTo(to, factor, sums4(p0, p1, p2, p3))
    if (H > 1) addTo(to + outputStride, factor, sums4(q0, q1, q2, q3))
    if (H > 2) addTo(to + 2 * outputStride, factor, sums4(s0, s1, s2, s3))
  }
}

// @ts-ignore: decorator
@inline
function addTo(address: usize, factor: v128, x: v128): void {
  v128.store(address, f32x4.add(v128.load(address), f32x4.mul(factor, x)))
}

/** Weights times factors, as [H][count] at `to`. */
// @ts-ignore: decorator
@inline
function scaleWeights(H: i32, x: usize, xStride: usize, factors: usize, count: i32, to: usize, toStride: usize): void {
  for (let i: usize = 0; i < <usize>count * 4; i += 4) {
    const factor = load<f32>(factors + i)
    store<f32>(to + i, load<f32>(x + i) * factor)
    if (H > 1) store<f32>(to + toStride + i, load<f32>(x + xStride + i) * factor)
    if (H > 2) store<f32>(to + 2 * toStride + i, load<f32>(x + 2 * xStride + i) * factor)
  }
}

/** Bytes between scaled weights of query rows: a tile. */
const WEIGHTS: usize = 256

// @ts-ignore: decorator
@inline
function addLookupsOf(H: i32, x: usize, xStride: usize, codes: usize, codeStride: usize, table: usize, unitBytes: usize, factors: usize, count: i32, dim: i32, output: usize, outputStride: usize, scratch: usize): void {
  scaleWeights(H, x, xStride, factors, count, scratch, WEIGHTS)
  const end = scratch + <usize>count * 4
  let k = 0
  for (; k + 16 <= dim; k += 16, codes += 4, table += unitBytes << 2) {
    const to = output + <usize>k * 4
    const t1 = table + unitBytes, t2 = t1 + unitBytes, t3 = t2 + unitBytes
    let p0 = v128.load(to), p1 = v128.load(to, 16), p2 = v128.load(to, 32), p3 = v128.load(to, 48)
    let q0 = p0, q1 = p0, q2 = p0, q3 = p0
    let s0 = p0, s1 = p0, s2 = p0, s3 = p0
    if (H > 1) { q0 = v128.load(to + outputStride); q1 = v128.load(to + outputStride, 16); q2 = v128.load(to + outputStride, 32); q3 = v128.load(to + outputStride, 48) }
    if (H > 2) { s0 = v128.load(to + 2 * outputStride); s1 = v128.load(to + 2 * outputStride, 16); s2 = v128.load(to + 2 * outputStride, 32); s3 = v128.load(to + 2 * outputStride, 48) }
    let line = codes
    for (let at = scratch; at < end; at += 4, line += codeStride) {
      const word = load<u32>(line)
      const xa = v128.load32_splat(at)
      const xb = H > 1 ? v128.load32_splat(at, WEIGHTS) : xa
      const xc = H > 2 ? v128.load32_splat(at, 2 * WEIGHTS) : xa
      let y = v128.load(table + <usize>((word << 4) & 0xff0))
      p0 = f32x4.add(p0, f32x4.mul(xa, y))
      if (H > 1) q0 = f32x4.add(q0, f32x4.mul(xb, y))
      if (H > 2) s0 = f32x4.add(s0, f32x4.mul(xc, y))
      y = v128.load(t1 + <usize>((word >> 4) & 0xff0))
      p1 = f32x4.add(p1, f32x4.mul(xa, y))
      if (H > 1) q1 = f32x4.add(q1, f32x4.mul(xb, y))
      if (H > 2) s1 = f32x4.add(s1, f32x4.mul(xc, y))
      y = v128.load(t2 + <usize>((word >> 12) & 0xff0))
      p2 = f32x4.add(p2, f32x4.mul(xa, y))
      if (H > 1) q2 = f32x4.add(q2, f32x4.mul(xb, y))
      if (H > 2) s2 = f32x4.add(s2, f32x4.mul(xc, y))
      y = v128.load(t3 + <usize>((word >> 20) & 0xff0))
      p3 = f32x4.add(p3, f32x4.mul(xa, y))
      if (H > 1) q3 = f32x4.add(q3, f32x4.mul(xb, y))
      if (H > 2) s3 = f32x4.add(s3, f32x4.mul(xc, y))
    }
    v128.store(to, p0); v128.store(to, p1, 16); v128.store(to, p2, 32); v128.store(to, p3, 48)
    if (H > 1) { v128.store(to + outputStride, q0); v128.store(to + outputStride, q1, 16); v128.store(to + outputStride, q2, 32); v128.store(to + outputStride, q3, 48) }
    if (H > 2) { v128.store(to + 2 * outputStride, s0); v128.store(to + 2 * outputStride, s1, 16); v128.store(to + 2 * outputStride, s2, 32); v128.store(to + 2 * outputStride, s3, 48) }
  }
  for (; k < dim; k += 4, codes++, table += unitBytes) {
    const to = output + <usize>k * 4
    let p = v128.load(to)
    let q = H > 1 ? v128.load(to + outputStride) : p
    let s = H > 2 ? v128.load(to + 2 * outputStride) : p
    let line = codes
    for (let at = scratch; at < end; at += 4, line += codeStride) {
      const y = byteAt(table, line)
      p = f32x4.add(p, f32x4.mul(v128.load32_splat(at), y))
      if (H > 1) q = f32x4.add(q, f32x4.mul(v128.load32_splat(at, WEIGHTS), y))
      if (H > 2) s = f32x4.add(s, f32x4.mul(v128.load32_splat(at, 2 * WEIGHTS), y))
    }
    v128.store(to, p)
    if (H > 1) v128.store(to + outputStride, q)
    if (H > 2) v128.store(to + 2 * outputStride, s)
  }
}

/** output[h][r] += factor[r] * sum over k of x[h][k] * row[r][k], for h = 1, 2 or 3 query rows. Writes up to three floats past `count`, unchanged. */
export function dotLookups(h: i32, x: usize, xStride: usize, codes: usize, codeStride: usize, table: usize, unitBytes: usize, factors: usize, count: i32, dim: i32, output: usize, outputStride: usize): void {
  if (h == 3) dotLookupsOf(3, x, xStride, codes, codeStride, table, unitBytes, factors, count, dim, output, outputStride)
  else if (h == 2) dotLookupsOf(2, x, xStride, codes, codeStride, table, unitBytes, factors, count, dim, output, outputStride)
  else dotLookupsOf(1, x, xStride, codes, codeStride, table, unitBytes, factors, count, dim, output, outputStride)
}

/** output[h][k] += sum over r < count of x[h][r] * factor[r] * row[r][k], for h = 1, 2 or 3 query rows. scratch: three tiles of floats. */
export function addLookups(h: i32, x: usize, xStride: usize, codes: usize, codeStride: usize, table: usize, unitBytes: usize, factors: usize, count: i32, dim: i32, output: usize, outputStride: usize, scratch: usize): void {
  if (h == 3) addLookupsOf(3, x, xStride, codes, codeStride, table, unitBytes, factors, count, dim, output, outputStride, scratch)
  else if (h == 2) addLookupsOf(2, x, xStride, codes, codeStride, table, unitBytes, factors, count, dim, output, outputStride, scratch)
  else addLookupsOf(1, x, xStride, codes, codeStride, table, unitBytes, factors, count, dim, output, outputStride, scratch)
}
