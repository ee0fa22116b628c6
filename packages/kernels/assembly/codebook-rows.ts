// Codebook codes to rows of f32. Where a byte stands for four channels (1 channel of 2 bits, 2 of 4, 4 of 8) it is one look-up of a vector: in the table
// itself, or in a table of all 256 bytes made once a call. Other layouts take their codes one by one.
import { Segment, clearLookup } from './attention-call'
import { halfValue } from './half'
import { butterfly } from './hadamard'
import { mapRow, scaleOfRow } from './mapped-rows'
import { moveRow, offsetOfRow, placeOutliers, rangeOfRow, rangesOf } from './ranged-rows'

/** Writes the four channels of every byte to `lookup`, unless it holds them already. */
export function fillLookup(table: usize, vector: i32, bits: i32, entries: i32, lookup: usize): void {
  if (load<u32>(lookup) == <u32>table) return
  store<u32>(lookup, <u32>table)
  let to = lookup + 16
  for (let byte = 0; byte < 256; byte++) {
    for (let shift = 0; shift < 8; shift += bits) {
      const code = (byte >> shift) & ((1 << bits) - 1)
      for (let k = 0; k < vector; k++, to += 4) store<f32>(to, code < entries ? load<f32>(table + <usize>(code * vector + k) * 4) : 0)
    }
  }
}

/** Writes the two channels of every pair of codes of 3 or 4 bits to `lookup`, unless it holds them already. */
function fillPairs(table: usize, bits: i32, entries: i32, lookup: usize): void {
  if (load<u32>(lookup) == <u32>table) return
  store<u32>(lookup, <u32>table)
  let to = lookup + 16
  for (let pair = 0; pair < 1 << (2 * bits); pair++, to += 8) {
    const first = pair & ((1 << bits) - 1), second = pair >> bits
    store<f32>(to, first < entries ? load<f32>(table + <usize>first * 4) : 0)
    store<f32>(to, second < entries ? load<f32>(table + <usize>second * 4) : 0, 4)
  }
}

/** Entries as they are scaled: by a factor; by range and offset of the row; by those of each channel. */
const enum Scaled { factor = 0, row = 1, channel = 2 }

/** Four entries at the pairs `first` and `second`; `ranges` and `offsets` are those of their channels. */
// @ts-ignore: decorator
@inline
function fourOf(scaled: Scaled, first: usize, second: usize, factors: v128, moves: v128, ranges: usize, offsets: usize): v128 {
  const entries = v128.load64_lane(second, v128.load64_zero(first), 1)
  if (scaled == Scaled.channel) return f32x4.add(f32x4.mul(entries, v128.load(ranges)), v128.load(offsets))
  const y = f32x4.mul(entries, factors)
  return scaled == Scaled.row ? f32x4.add(y, moves) : y
}

/** `channels` codes of B bits (3 or 4), a multiple of eight, from byte `from` on, by pairs. Reads a byte past codes of 3 bits, which the allocator always has. */
// @ts-ignore: decorator
@inline
function eightsOf(B: i32, scaled: Scaled, from: usize, channels: i32, pairs: usize, factor: f32, offset: f32, ranges: usize, rangesLine: usize, to: usize): void {
  const factors = f32x4.splat(factor), moves = f32x4.splat(offset)
  const mask: u32 = ((1 << (2 * B)) - 1) << 3
  let offsets = ranges + rangesLine
  for (const end = to + <usize>channels * 4; to < end; to += 32, from += B, ranges += 32, offsets += 32) {
    const word = load<u32>(from)
    v128.store(to, fourOf(scaled, pairs + <usize>((word << 3) & mask), pairs + <usize>((word >> (2 * B - 3)) & mask), factors, moves, ranges, offsets))
    v128.store(to, fourOf(scaled, pairs + <usize>((word >> (4 * B - 3)) & mask), pairs + <usize>((word >> (6 * B - 3)) & mask), factors, moves, ranges + 16, offsets + 16), 16)
  }
}

/** Rows row..row+count (of the page) of a head whose entries are scaled and moved, and whose codes lie by eights at whole bytes. */
function movedEights(segment: Segment, head: i32, row: i32, count: i32, dim: i32, to: usize, stride: usize, pairs: usize): void {
  const bits = segment.bits
  let line = <usize>segment.data + <usize>head * segment.dataHead + <usize>row * segment.dataLine
  const ranges = rangesOf(segment, head, dim)
  for (let i = 0; i < count; i++, line += segment.dataLine, to += stride) {
    if (segment.ranged == 2) {
      if (bits == 3) eightsOf(3, Scaled.channel, line, dim, pairs, 0, 0, ranges, segment.rangesLine, to)
      else eightsOf(4, Scaled.channel, line, dim, pairs, 0, 0, ranges, segment.rangesLine, to)
    } else {
      const range = rangeOfRow(segment, head, row + i), offset = offsetOfRow(segment, head, row + i)
      if (bits == 3) eightsOf(3, Scaled.row, line, dim, pairs, range, offset, 0, 0, to)
      else eightsOf(4, Scaled.row, line, dim, pairs, range, offset, 0, 0, to)
    }
    if (segment.room) placeOutliers(segment, head, row + i, dim, to)
  }
}

/** Norm of the first group of a row: halves of rows 2i and 2i + 1 share words. The norms of its other groups follow, 4 bytes apart. */
// @ts-ignore: decorator
@inline
export function normsOf(segment: Segment, head: i32, row: i32): usize {
  return normsFrom(<usize>segment.metadata + <usize>head * segment.metadataHead, segment.metadataLine, segment.wide ? 0 : 1, row)
}

// @ts-ignore: decorator
@inline
function normsFrom(head: usize, line: usize, paired: i32, row: i32): usize {
  return head + <usize>(row >> paired) * line + <usize>((row & paired) << 1)
}

/** Factor of the group whose norm is at `norm`. */
// @ts-ignore: decorator
@inline
export function factorAt(segment: Segment, norm: usize): f32 {
  if (!segment.metadata || segment.ranged) return segment.factor
  return (segment.wide ? load<f32>(norm) : halfValue(<u32>load<u16>(norm))) * segment.factor
}

/** `bytes` bytes of codes, four channels each; returns the end of what was written. */
// @ts-ignore: decorator
@inline
function bytesOf(codes: usize, bytes: i32, table: usize, unitBytes: usize, factor: v128, to: usize): usize {
  let left = bytes
  for (; left >= 4; left -= 4, codes += 4, to += 64) {
    const word = load<u32>(codes)
    v128.store(to, f32x4.mul(factor, v128.load(table + <usize>((word << 4) & 0xff0))))
    table += unitBytes
    v128.store(to, f32x4.mul(factor, v128.load(table + <usize>((word >> 4) & 0xff0))), 16)
    table += unitBytes
    v128.store(to, f32x4.mul(factor, v128.load(table + <usize>((word >> 12) & 0xff0))), 32)
    table += unitBytes
    v128.store(to, f32x4.mul(factor, v128.load(table + <usize>((word >> 20) & 0xff0))), 48)
    table += unitBytes
  }
  for (; left > 0; left--, codes++, to += 16) {
    v128.store(to, f32x4.mul(factor, v128.load(table + ((<usize>load<u8>(codes)) << 4))))
    table += unitBytes
  }
  return to
}

/** `units` codes of V channels from bit `bit` on, `channels` channels in all. Reads up to three bytes past the line, which the allocator always has. */
// @ts-ignore: decorator
@inline
function unitsOf(V: i32, line: usize, bit: i32, bits: i32, units: i32, channels: i32, table: usize, unitBytes: usize, factor: f32, to: usize): void {
  const mask = <u32>((1 << bits) - 1)
  const factors = f32x4.splat(factor)
  for (let unit = 0; unit < units; unit++, bit += bits, table += unitBytes, channels -= V, to += V * 4) {
    const code = (load<u32>(line + <usize>(bit >> 3)) >> (<u32>bit & 7)) & mask
    const entry = table + <usize>code * (V * 4)
    if (channels < V) {
      for (let k: usize = 0; k < <usize>channels * 4; k += 4) store<f32>(to + k, factor * load<f32>(entry + k))
    } else if (V == 1) store<f32>(to, factor * load<f32>(entry))
    else if (V == 2) v128.store64_lane(to, f32x4.mul(factors, v128.load64_zero(entry)), 0)
    else {
      v128.store(to, f32x4.mul(factors, v128.load(entry)))
      if (V == 6) v128.store64_lane(to + 16, f32x4.mul(factors, v128.load64_zero(entry + 16)), 0)
      if (V == 8) v128.store(to, f32x4.mul(factors, v128.load(entry, 16)), 16)
    }
  }
}

function unitsOfAny(vector: i32, line: usize, bit: i32, bits: i32, units: i32, channels: i32, table: usize, unitBytes: usize, factor: f32, to: usize): void {
  if (vector == 1) unitsOf(1, line, bit, bits, units, channels, table, unitBytes, factor, to)
  else if (vector == 2) unitsOf(2, line, bit, bits, units, channels, table, unitBytes, factor, to)
  else if (vector == 4) unitsOf(4, line, bit, bits, units, channels, table, unitBytes, factor, to)
  else if (vector == 6) unitsOf(6, line, bit, bits, units, channels, table, unitBytes, factor, to)
  else unitsOf(8, line, bit, bits, units, channels, table, unitBytes, factor, to)
}

/** Rows row..row+count (of the page) of a head to `to`, `stride` bytes apart; in the space of the table, or with `back` after the Hadamard transform, or the map of the block. */
export function decodeCodeRows(segment: Segment, head: i32, row: i32, count: i32, dim: i32, to: usize, stride: usize, lookup: usize, back: bool): void {
  const vector = segment.vector, bits = segment.bits, span = segment.group
  const unitBytes = <usize>segment.tableUnit
  const perSpan = (span + vector - 1) / vector
  const whole = vector * 2 == bits && bits <= 8 && (span & 3) == 0 && (bits == 8 || unitBytes == 0)
  // Eight codes begin at whole bytes.
  const eights = !whole && vector == 1 && (bits == 3 || bits == 4) && unitBytes == 0 && (span & 7) == 0
  let table = <usize>segment.table + <usize>head * segment.tableHead
  const pairs = lookup + 16
  if (eights) fillPairs(table, bits, segment.entries, lookup)
  const mapped = segment.ranged == 3
  if (eights && segment.ranged && !mapped) {
    movedEights(segment, head, row, count, dim, to, stride, pairs)
    return
  }
  if (whole && bits != 8) {
    fillLookup(table, vector, bits, segment.entries, lookup)
    table = lookup + 16
  }
  let line = <usize>segment.data + <usize>head * segment.dataHead + <usize>row * segment.dataLine
  const norms = normsOf(segment, head, 0), pairLine = <usize>segment.metadataLine, paired = segment.wide ? 0 : 1
  for (let i = 0; i < count; i++, line += segment.dataLine, to += stride) {
    let group = 0
    let norm = normsFrom(norms, pairLine, paired, row + i)
    for (let start = 0; start < dim; start += span, group++, norm += 4) {
      const factor = mapped ? scaleOfRow(segment, head, row + i) : factorAt(segment, norm)
      const unit = group * perSpan
      const tables = table + <usize>unit * unitBytes
      const target = to + <usize>start * 4
      const codes = line + <usize>((unit * bits) >> 3)
      if (eights && bits == 3) eightsOf(3, Scaled.factor, codes, span, pairs, factor, 0, 0, 0, target)
      else if (eights) eightsOf(4, Scaled.factor, codes, span, pairs, factor, 0, 0, 0, target)
      else if (whole) bytesOf(codes, span >> 2, tables, unitBytes, f32x4.splat(factor), target)
      else unitsOfAny(vector, line, unit * bits, bits, perSpan, span, tables, unitBytes, factor, target)
    }
    if (back && segment.hadamard) butterfly(to, dim, segment.hadamard)
    if (mapped) {
      if (back) mapRow(segment, head, row + i, dim, to, lookup)
    } else if (segment.ranged) moveRow(segment, head, row + i, dim, to)
    if (segment.room) placeOutliers(segment, head, row + i, dim, to)
  }
}

/** All rows of a segment as f32 [heads, rows, dim]. lookup: LOOKUP_BYTES. */
export function codebookDecode(record: usize, heads: i32, dim: i32, output: usize, lookup: usize): void {
  const segment = changetype<Segment>(record)
  clearLookup(lookup)
  for (let head = 0; head < heads; head++) {
    decodeCodeRows(segment, head, segment.from, segment.rows, dim, output, <usize>dim * 4, lookup, true)
    output += <usize>segment.rows * dim * 4
  }
}
