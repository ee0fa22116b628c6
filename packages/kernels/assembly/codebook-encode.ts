// Rows to codes: the nearest entry of a table for every few channels, as src/codebook/reference.ts defines it. Entries are compared four at a time,
// from a table turned to [vector][entries], whose padding is infinitely far away.
import { halfBits } from './half'
import { butterfly } from './hadamard'

/** Rows worked on at a time, an even number: their rotated form stays in the cache while the table of one code is turned. */
const BATCH: i32 = 64
const INFINITE: f32 = Infinity

// @ts-ignore: decorator
@inline
function padded(entries: i32): i32 {
  return (entries + 3) & ~3
}

/** Bytes: rotated rows, the turned table with its squares, eight channels. */
export function codebookEncodeScratch(dim: i32, vector: i32, entries: i32): i32 {
  return BATCH * dim * 4 + (vector + 1) * padded(entries) * 4 + 32
}

/** table [entries][vector] to [vector][padded entries], and the sum of squares of each entry after it. */
function turnTable(table: usize, vector: i32, entries: i32, to: usize): void {
  const line = <usize>padded(entries) * 4
  const squares = to + <usize>vector * line
  for (let entry = 0; entry < padded(entries); entry++) {
    let sum: f32 = 0
    for (let k = 0; k < vector; k++) {
      const value = entry < entries ? load<f32>(table + <usize>(entry * vector + k) * 4) : INFINITE
      store<f32>(to + <usize>k * line + <usize>entry * 4, value)
      sum += value * value
    }
    store<f32>(squares + <usize>entry * 4, sum)
  }
}

// @ts-ignore: decorator
@inline
function term(scaled: bool, x: v128, t: v128): v128 {
  if (scaled) return f32x4.mul(x, t)
  const difference = f32x4.sub(x, t)
  return f32x4.mul(difference, difference)
}

/** Entry nearest to the V channels at x; the first of equals. */
// @ts-ignore: decorator
@inline
function nearestOf(V: i32, scaled: bool, x: usize, turned: usize, entries: i32): i32 {
  const line = <usize>padded(entries) * 4
  const x0 = v128.load32_splat(x)
  const x1 = V > 1 ? v128.load32_splat(x, 4) : x0
  const x2 = V > 2 ? v128.load32_splat(x, 8) : x0
  const x3 = V > 2 ? v128.load32_splat(x, 12) : x0
  const x4 = V > 4 ? v128.load32_splat(x, 16) : x0
  const x5 = V > 4 ? v128.load32_splat(x, 20) : x0
  const x6 = V > 6 ? v128.load32_splat(x, 24) : x0
  const x7 = V > 6 ? v128.load32_splat(x, 28) : x0
  let best = f32x4.splat(INFINITE)
  let found = i32x4.splat(0)
  let index = i32x4(0, 1, 2, 3)
  for (let e: usize = 0; e < line; e += 16) {
    const at = turned + e
    let sum = term(scaled, x0, v128.load(at))
    if (V > 1) sum = f32x4.add(sum, term(scaled, x1, v128.load(at + line)))
    if (V > 2) {
      sum = f32x4.add(sum, term(scaled, x2, v128.load(at + 2 * line)))
      sum = f32x4.add(sum, term(scaled, x3, v128.load(at + 3 * line)))
    }
    if (V > 4) {
      sum = f32x4.add(sum, term(scaled, x4, v128.load(at + 4 * line)))
      sum = f32x4.add(sum, term(scaled, x5, v128.load(at + 5 * line)))
    }
    if (V > 6) {
      sum = f32x4.add(sum, term(scaled, x6, v128.load(at + 6 * line)))
      sum = f32x4.add(sum, term(scaled, x7, v128.load(at + 7 * line)))
    }
    const distance = scaled ? f32x4.sub(v128.load(at + <usize>V * line), f32x4.add(sum, sum)) : sum
    const closer = f32x4.lt(distance, best)
    best = v128.bitselect(distance, best, closer)
    found = v128.bitselect(index, found, closer)
    index = i32x4.add(index, i32x4.splat(4))
  }
  let least = f32x4.extract_lane(best, 0)
  let entry = i32x4.extract_lane(found, 0)
  const a = f32x4.extract_lane(best, 1), b = f32x4.extract_lane(best, 2), c = f32x4.extract_lane(best, 3)
  const i = i32x4.extract_lane(found, 1), j = i32x4.extract_lane(found, 2), k = i32x4.extract_lane(found, 3)
  if (a < least || (a == least && i < entry)) { least = a; entry = i }
  if (b < least || (b == least && j < entry)) { least = b; entry = j }
  if (c < least || (c == least && k < entry)) { least = c; entry = k }
  return entry
}

function nearest(vector: i32, scaled: bool, x: usize, turned: usize, entries: i32): i32 {
  if (scaled) {
    if (vector == 1) return nearestOf(1, true, x, turned, entries)
    if (vector == 2) return nearestOf(2, true, x, turned, entries)
    if (vector == 4) return nearestOf(4, true, x, turned, entries)
    if (vector == 6) return nearestOf(6, true, x, turned, entries)
    return nearestOf(8, true, x, turned, entries)
  }
  if (vector == 1) return nearestOf(1, false, x, turned, entries)
  if (vector == 2) return nearestOf(2, false, x, turned, entries)
  if (vector == 4) return nearestOf(4, false, x, turned, entries)
  if (vector == 6) return nearestOf(6, false, x, turned, entries)
  return nearestOf(8, false, x, turned, entries)
}

/** Rows [count][dim] at `source` to the units of the table at `z`; norms to `metadata`, the first row's (stride 0: no scales). */
function normalize(source: usize, count: i32, dim: i32, span: i32, hadamard: i32, factor: f32, wide: i32, metadata: usize, metadataStride: usize, z: usize): void {
  memory.copy(z, source, <usize>count * dim * 4)
  if (hadamard) butterfly(z, count * dim, hadamard)
  const paired = wide ? 0 : 1
  for (let row = 0; row < count; row++) {
    let to = metadata + <usize>(row >> paired) * metadataStride + <usize>((row & paired) << 1)
    for (let group = 0; group * span < dim; group++, to += 4) {
      const bytes = <usize>span * 4
      let norm: f32 = 1
      if (metadataStride) {
        let sum: f64 = 0
        for (let k: usize = 0; k < bytes; k += 4) {
          const x = <f64>load<f32>(source + k)
          sum += x * x
        }
        norm = <f32>Math.sqrt(sum)
        if (wide) store<f32>(to, norm)
        else store<u16>(to, <u16>halfBits(norm))
      }
      for (let k: usize = 0; k < bytes; k += 4) store<f32>(z + k, norm == 0 ? 0 : (load<f32>(z + k) * factor) / norm)
      source += bytes
      z += bytes
    }
  }
}

/** Code at bit `bit` of a line of zeros. */
// @ts-ignore: decorator
@inline
function putCode(line: usize, bit: i32, bits: i32, code: i32): void {
  const word = line + <usize>(bit >> 5) * 4
  const offset = bit & 31
  store<u32>(word, load<u32>(word) | (<u32>code << offset))
  if (offset + bits > 32) store<u32>(word, <u32>code >> (32 - offset), 4)
}

/**
 * rows f32 [heads, n, dim] to codes and metadata. Codes start anew every `span` channels; `unitBytes` are from the table of one code of a row to that of
 * the next, `headBytes` from head to head, 0 when all share one. `metadataStride`: bytes of the norms of a row, or of two (halves), 0 without scales.
 */
export function codebookEncode(rows: usize, heads: i32, n: i32, dim: i32, vector: i32, bits: i32, entries: i32, span: i32, hadamard: i32, factor: f32, wide: i32, table: usize, headBytes: usize, unitBytes: usize, codes: usize, codeStride: usize, metadata: usize, metadataStride: usize, scratch: usize): void {
  const perSpan = (span + vector - 1) / vector
  const z = scratch
  const turned = z + <usize>BATCH * dim * 4
  const channels = turned + <usize>(vector + 1) * padded(entries) * 4
  memory.fill(codes, 0, <usize>heads * n * codeStride)
  const paired = wide ? 0 : 1
  const metadataHead = <usize>((n + paired) >> paired) * metadataStride
  memory.fill(metadata, 0, <usize>heads * metadataHead)
  if (!unitBytes) turnTable(table, vector, entries, turned)
  for (let head = 0; head < heads; head++) {
    for (let first = 0; first < n; first += BATCH) {
      const count = min(BATCH, n - first)
      const line = <usize>head * n + first
      normalize(rows + line * dim * 4, count, dim, span, hadamard, factor, wide, metadata + <usize>head * metadataHead + <usize>(first >> paired) * metadataStride, metadataStride, z)
      let unit = 0
      for (let start = 0; start < dim; start += span) {
        for (let within = 0; within < perSpan; within++, unit++) {
          if (unitBytes) turnTable(table + <usize>head * headBytes + <usize>unit * unitBytes, vector, entries, turned)
          const from = start + within * vector
          const left = min(vector, start + span - from)
          for (let row = 0; row < count; row++) {
            let x = z + <usize>(row * dim + from) * 4
            if (left < vector) {
              memory.fill(channels, 0, 32)
              memory.copy(channels, x, <usize>left * 4)
              x = channels
            }
            putCode(codes + (line + row) * codeStride, unit * bits, bits, nearest(vector, metadataStride != 0, x, turned, entries))
          }
        }
      }
    }
  }
}
