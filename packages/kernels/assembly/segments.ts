// Segments: runs of rows of a page, as records of 16 int32 written by src/paged-attention/segments.ts, and their products with query rows.
import { decodeLine, wholeWords } from './affine'
import { addCodes } from './code-lines'
import { dotCodes, permuteQueries } from './code-rows'
import { addRows, dotRows } from './dense-rows'
import { unpackHalves } from './half'

/** How a segment's rows are stored. */
export const enum Kind { f32 = 0, f16 = 1, channels = 2, tokens = 3 }

/** Rows a tile holds at most. */
export const TILE: i32 = 64
/** Floats between the score rows of a tile: the tile and room for writes of whole vectors past it. */
export const SCORE_STRIDE: i32 = 68
/** Up to this many query rows codes are used as they are; above, a tile is unpacked once to f32 for all of them. */
export const DIRECT_ROWS: i32 = 12

/** One record. Addresses are of head 0; strides in bytes. A line is a row, or a channel when codes run along tokens. */
@unmanaged
export class Segment {
  kind: i32
  bits: i32
  group: i32
  wide: i32
  data: u32
  dataHead: u32
  dataLine: u32
  metadata: u32
  metadataHead: u32
  metadataLine: u32
  from: i32
  rows: i32
  query: i32
  unused0: i32
  unused1: i32
  unused2: i32
}

// @ts-ignore: decorator
@inline
export function segmentAt(table: usize, index: i32): Segment {
  return changetype<Segment>(table + <usize>index * 64)
}

/** A block of query rows: 3, or what is left without leaving 1 alone when 4 are left. */
// @ts-ignore: decorator
@inline
export function blockOf(rowsLeft: i32): i32 {
  return rowsLeft == 4 ? 2 : min(3, rowsLeft)
}

/** Reads a byte range once, a cache line at a time: many misses in flight, where the products that follow would wait for them in turn (measured: a quarter less time at 4096 tokens). */
function touch(from: usize, bytes: usize, sink: usize): void {
  let seen = 0
  for (let i: usize = 0; i < bytes; i += 64) seen |= load<i32>(from + i)
  store<i32>(sink, seen)
}

/** Rows at..at+count of a row-wise segment as f32 rows of `padded` floats: their own memory where it has that form, else `tile`. */
function plainRows(segment: Segment, head: i32, at: i32, count: i32, dim: i32, padded: i32, tile: usize): usize {
  const row = segment.from + at
  const data = <usize>segment.data + <usize>head * segment.dataHead + <usize>row * segment.dataLine
  if (segment.kind == Kind.f32 && dim == padded) {
    touch(data, <usize>count * segment.dataLine, tile)
    return data
  }
  if (segment.kind == Kind.f16 && dim == padded) {
    // Rows of an even dim follow each other without a gap.
    touch(data, <usize>count * segment.dataLine, tile)
    unpackHalves(data, tile, count * dim)
    return tile
  }
  const metadata = <usize>segment.metadata + <usize>head * segment.metadataHead + <usize>row * segment.metadataLine
  for (let i = 0; i < count; i++) {
    const to = tile + <usize>i * padded * 4
    for (let k = dim; k < padded; k++) store<f32>(to + <usize>k * 4, 0)
    const line = data + <usize>i * segment.dataLine
    if (segment.kind == Kind.f32) memory.copy(to, line, <usize>dim * 4)
    else if (segment.kind == Kind.f16) unpackHalves(line, to, dim)
    else decodeLine(line, metadata + <usize>i * segment.metadataLine, segment.wide, segment.bits, segment.group, 0, dim, to)
  }
  return tile
}

/** Tokens at..at+count of a segment along tokens as f32 lines [dim][padded], zeros after `count`. */
function plainLines(segment: Segment, head: i32, at: i32, count: i32, dim: i32, padded: i32, tile: usize): void {
  let data = <usize>segment.data + <usize>head * segment.dataHead
  let metadata = <usize>segment.metadata + <usize>head * segment.metadataHead
  for (let channel = 0; channel < dim; channel++, data += segment.dataLine, metadata += segment.metadataLine) {
    const to = tile + <usize>channel * padded * 4
    decodeLine(data, metadata, segment.wide, segment.bits, segment.group, segment.from + at, count, to)
    for (let i = count; i < padded; i++) store<f32>(to + <usize>i * 4, 0)
  }
}

/** scores[m][i] += query[m] . key[at + i] for the query rows first..rows; strides in bytes. `scores` points at the column of the first token. */
export function addScores(segment: Segment, head: i32, at: i32, count: i32, dim: i32, padded: i32, queries: usize, first: i32, rows: i32, scores: usize, tile: usize, scratch: usize): void {
  const queryStride = <usize>padded * 4
  const scoreStride: usize = SCORE_STRIDE * 4
  const along = segment.kind == Kind.tokens
  const direct = along && rows - first <= DIRECT_ROWS && wholeWords(segment.bits, segment.group, segment.from + at)
  const directRows = segment.kind == Kind.channels && rows - first <= DIRECT_ROWS && wholeWords(segment.bits, segment.group, 0)
  const lineWidth = (count + 3) & ~3
  let plain: usize = tile
  if (directRows) permuteQueries(rows - first, queries + <usize>first * queryStride, padded, dim, segment.bits, tile)
  else if (!along) plain = plainRows(segment, head, at, count, dim, padded, tile)
  else if (!direct) plainLines(segment, head, at, count, dim, lineWidth, tile)
  for (let m = first; m < rows; ) {
    const h = blockOf(rows - m)
    const x = queries + <usize>m * queryStride
    const to = scores + <usize>m * scoreStride
    if (directRows) {
      const line = <usize>(segment.from + at)
      dotCodes(h, tile, m - first, <usize>segment.data + <usize>head * segment.dataHead + line * segment.dataLine, segment.dataLine, <usize>segment.metadata + <usize>head * segment.metadataHead + line * segment.metadataLine, segment.metadataLine, segment.wide, count, segment.bits, segment.group, dim, to, scoreStride)
    } else if (!along) dotRows(h, x, queryStride, plain, plain == tile ? <usize>padded * 4 : <usize>segment.dataLine, count, padded, to, scoreStride)
    else if (!direct) addRows(h, x, queryStride, plain, <usize>lineWidth * 4, dim, lineWidth, to, scoreStride)
    else {
      addCodes(h, x, queryStride, <usize>segment.data + <usize>head * segment.dataHead, segment.dataLine, <usize>segment.metadata + <usize>head * segment.metadataHead, segment.metadataLine, segment.wide, dim, segment.bits, segment.group, segment.from + at, count, to, scoreStride, scratch)
      // Whole blocks were written: nothing may be left after the rows of this view.
      if (count < TILE) for (let row = 0; row < h; row++) memory.fill(to + <usize>row * scoreStride + <usize>count * 4, 0, <usize>(TILE - count) * 4)
    }
    m += h
  }
}

/** output[m] += sum over i of weights[m][i] * value[at + i]. `weights` points at the column of the first token; `outputStride` bytes hold whole blocks of 64 floats. */
export function addValues(segment: Segment, head: i32, at: i32, count: i32, dim: i32, padded: i32, weights: usize, first: i32, rows: i32, output: usize, outputStride: usize, tile: usize, scratch: usize): void {
  const weightStride: usize = SCORE_STRIDE * 4
  const along = segment.kind == Kind.tokens
  const direct = segment.kind == Kind.channels && rows - first <= DIRECT_ROWS && wholeWords(segment.bits, segment.group, 0)
  const lineWidth = (count + 3) & ~3
  let plain: usize = tile
  if (along) plainLines(segment, head, at, count, dim, lineWidth, tile)
  else if (!direct) plain = plainRows(segment, head, at, count, dim, padded, tile)
  for (let m = first; m < rows; ) {
    const h = blockOf(rows - m)
    const x = weights + <usize>m * weightStride
    const to = output + <usize>m * outputStride
    if (along) dotRows(h, x, weightStride, plain, <usize>lineWidth * 4, dim, lineWidth, to, outputStride)
    else if (!direct) addRows(h, x, weightStride, plain, plain == tile ? <usize>padded * 4 : <usize>segment.dataLine, count, padded, to, outputStride)
    else {
      const line = <usize>(segment.from + at)
      addCodes(h, x, weightStride, <usize>segment.data + <usize>head * segment.dataHead + line * segment.dataLine, segment.dataLine, <usize>segment.metadata + <usize>head * segment.metadataHead + line * segment.metadataLine, segment.metadataLine, segment.wide, count, segment.bits, segment.group, 0, dim, to, outputStride, scratch)
    }
    m += h
  }
}
