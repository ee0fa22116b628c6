// Products of segments (runs of rows of a page) with query rows.
import { decodeLine, wholeWords } from './affine'
import { Call, Kind, SCORE_STRIDE, Segment, TILE, pad, pageHead, segmentAt } from './attention-call'
import { addCodes } from './code-lines'
import { dotCodes, permuteQueries } from './code-rows'
import { addLookups, dotLookups, lookupTable, readsLookups, rowFactors } from './code-lookups'
import { decodeCodeRows } from './codebook-rows'
import { addRows, dotRows } from './dense-rows'
import { unpackHalves } from './half'
import { addMapped, mapQueries, oneMap } from './mapped-rows'
import { linesToRows, rotateRows } from './rotate-rows'

/** Up to this many query rows codes are used as they are; above, a tile is unpacked once to f32 for all of them. */
export const DIRECT_ROWS: i32 = 12

/** A block of query rows: 3, or what is left without leaving 1 alone when 4 are left. */
// @ts-ignore: decorator
@inline
export function blockOf(rowsLeft: i32): i32 {
  return rowsLeft == 4 ? 2 : min(3, rowsLeft)
}

/** Reads a byte range once, a cache line at a time: many misses in flight, where the products that follow would wait for them in turn (measured: a quarter less time at 4096 tokens). */
function touch(from: usize, bytes: usize, sink: usize): void {
  let seen = 0
  const end = from + bytes
  for (; from + 256 <= end; from += 256) seen |= load<i32>(from) | load<i32>(from, 64) | load<i32>(from, 128) | load<i32>(from, 192)
  for (; from < end; from += 64) seen |= load<i32>(from)
  store<i32>(sink, seen)
}

/** Names the rows to bring into the cache while others are worked on: those a tile will start with at row `at` of segment `index`, when they are f32. */
export function setNext(call: Call, segments: usize, segmentCount: i32, index: i32, at: i32, head: i32): void {
  call.next = 0
  call.nextBytes = 0
  if (index >= segmentCount) return
  const segment = segmentAt(segments, index)
  // Halves: no gain, or a loss (measured: 26 ms before, 26 to 30 with it).
  if (segment.kind != Kind.f32) return
  const bytes = <u32>min(TILE, segment.rows - at) * segment.dataLine
  // Quarters stay whole words, and within the rows.
  if (bytes < 1024) return
  call.next = segment.data + <u32>pageHead(segment, head) * segment.dataHead + <u32>(segment.from + at) * segment.dataLine
  call.nextBytes = bytes & ~15
}

/** After rows were worked on: the next ones are in the cache. */
// @ts-ignore: decorator
@inline
function broughtNext(call: Call, seen: i32): void {
  call.sink = seen
  if (!call.next) return
  call.touched = call.next
  call.next = 0
  call.nextBytes = 0
}

/** Rows at..at+count of a row-wise segment (of head `head` of its page) as f32 rows of `padded` floats: their own memory where it has that form, else `tile`. `back`: undo the Hadamard transform of codebooks, and multiply by maps. */
function plainRows(segment: Segment, head: i32, at: i32, count: i32, dim: i32, padded: i32, tile: usize, lookup: usize, back: bool, touched: usize): usize {
  const row = segment.from + at
  const data = <usize>segment.data + <usize>head * segment.dataHead + <usize>row * segment.dataLine
  if (segment.kind == Kind.f32 && dim == padded) {
    if (data != touched) touch(data, <usize>count * segment.dataLine, tile)
    return data
  }
  if (segment.kind == Kind.f16 && dim == padded) {
    // Rows of an even dim follow each other without a gap.
    if (data != touched) touch(data, <usize>count * segment.dataLine, tile)
    unpackHalves(data, tile, count * dim)
    return tile
  }
  if (segment.kind == Kind.codebook) {
    touch(data, <usize>count * segment.dataLine, tile)
    for (let i = 0; i < count; i++) {
      for (let k = dim; k < padded; k++) store<f32>(tile + <usize>(i * padded + k) * 4, 0)
    }
    decodeCodeRows(segment, head, row, count, dim, tile, <usize>padded * 4, lookup, back)
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

/** True for codes that are read in the space of their table: the call's query or output is rotated instead of every row. Outliers are in that of the rows. */
// @ts-ignore: decorator
@inline
function inRotatedSpace(segment: Segment, block: i32): bool {
  return segment.kind == Kind.codebook && block != 0 && segment.hadamard == block && !segment.unrotated && !segment.room
}

/** True for rows that are read before they are multiplied by their map: the call's query, or the sums, are multiplied instead. */
// @ts-ignore: decorator
@inline
function beforeMap(segment: Segment, at: i32, count: i32): bool {
  return segment.kind == Kind.codebook && segment.ranged == 3 && !segment.unrotated && oneMap(segment, segment.from + at, count)
}

/**
 * scores[m][i] += query[m] . key[at + i] for the query rows first..rows of a chunk of `rows`. `scores` points at the column of the first token,
 * which is number `start` of all.
 */
export function addScores(call: Call, segment: Segment, kvHead: i32, at: i32, count: i32, start: i32, first: i32, rows: i32, scores: usize): void {
  const dim = call.keyDim
  const head = pageHead(segment, kvHead)
  const padded = pad(dim, 4)
  const queryStride = <usize>padded * 4
  const scoreStride: usize = SCORE_STRIDE * 4
  const rotated = inRotatedSpace(segment, call.keyBlock)
  let queries = <usize>(rotated ? call.rotatedQuery : call.query) + <usize>(segment.query * rows) * queryStride
  const mapped = beforeMap(segment, at, count)
  if (mapped) {
    mapQueries(segment, head, segment.from + at, queries, first, rows, dim, padded, call.mapped, call.keyLookup)
    queries = call.mapped
  }
  const tile = <usize>call.tile
  const turn = segment.unrotated != 0
  const along = segment.kind == Kind.tokens && !turn
  const direct = along && rows - first <= DIRECT_ROWS && wholeWords(segment.bits, segment.group, segment.from + at)
  const directRows = segment.kind == Kind.channels && !turn && rows - first <= DIRECT_ROWS && wholeWords(segment.bits, segment.group, 0)
  const lookups = segment.kind == Kind.codebook && !turn && rows - first <= DIRECT_ROWS && (rotated || !segment.hadamard) && readsLookups(segment, dim)
  const lineWidth = (count + 3) & ~3
  let plain: usize = tile
  let table: usize = 0
  if (lookups) {
    table = lookupTable(segment, head, call.keyLookup)
    rowFactors(segment, head, segment.from + at, count, tile)
  } else if (directRows) permuteQueries(rows - first, queries + <usize>first * queryStride, padded, dim, segment.bits, tile)
  else if (turn) plain = turnedRows(call, segment, kvHead, at, count, start, dim, padded)
  else if (!along) plain = plainRows(segment, head, at, count, dim, padded, tile, call.keyLookup, !rotated && !mapped, call.touched)
  else if (!direct) plainLines(segment, head, at, count, dim, lineWidth, tile)
  const stride = plain == tile || plain == <usize>call.turned ? queryStride : <usize>segment.dataLine
  for (let m = first; m < rows; ) {
    const h = blockOf(rows - m)
    const x = queries + <usize>m * queryStride
    const to = scores + <usize>m * scoreStride
    if (lookups) dotLookups(h, x, queryStride, <usize>segment.data + <usize>head * segment.dataHead + <usize>(segment.from + at) * segment.dataLine, segment.dataLine, table, segment.tableUnit, tile, count, dim, to, scoreStride)
    else if (directRows) {
      const line = <usize>(segment.from + at)
      dotCodes(h, tile, m - first, <usize>segment.data + <usize>head * segment.dataHead + line * segment.dataLine, segment.dataLine, <usize>segment.metadata + <usize>head * segment.metadataHead + line * segment.metadataLine, segment.metadataLine, segment.wide, count, segment.bits, segment.group, dim, to, scoreStride)
    } else if (!along) broughtNext(call, dotRows(h, x, queryStride, plain, stride, count, padded, to, scoreStride, call.next, call.nextBytes))
    else if (!direct) addRows(h, x, queryStride, plain, <usize>lineWidth * 4, dim, lineWidth, to, scoreStride, 0, 0)
    else {
      addCodes(h, x, queryStride, <usize>segment.data + <usize>head * segment.dataHead, segment.dataLine, <usize>segment.metadata + <usize>head * segment.metadataHead, segment.metadataLine, segment.wide, dim, segment.bits, segment.group, segment.from + at, count, to, scoreStride, call.codeScratch)
      // Whole blocks were written: nothing may be left after the rows of this view.
      if (count < TILE) for (let row = 0; row < h; row++) memory.fill(to + <usize>row * scoreStride + <usize>count * 4, 0, <usize>(TILE - count) * 4)
    }
    m += h
  }
}

/** Rows at..at+count of keys stored before the rotary embedding, after it: [count][padded]. */
function turnedRows(call: Call, segment: Segment, kvHead: i32, at: i32, count: i32, start: i32, dim: i32, padded: i32): usize {
  const tile = <usize>call.tile
  const head = pageHead(segment, kvHead)
  const stride = <usize>padded * 4
  if (segment.kind == Kind.tokens) {
    const lineWidth = (count + 3) & ~3
    plainLines(segment, head, at, count, dim, lineWidth, tile)
    linesToRows(tile, lineWidth, dim, count, padded, call.turned)
    rotateRows(call, kvHead, start, count, call.turned, stride, call.turned, padded)
    return call.turned
  }
  const plain = plainRows(segment, head, at, count, dim, padded, tile, call.keyLookup, true, call.touched)
  rotateRows(call, kvHead, start, count, plain, plain == tile ? stride : <usize>segment.dataLine, tile, padded)
  return tile
}

/** output[m] += sum over i of weights[m][i] * value[at + i]. `weights` points at the column of the first token; `outputStride` bytes hold whole blocks of 64 floats. */
export function addValues(call: Call, segment: Segment, kvHead: i32, at: i32, count: i32, weights: usize, first: i32, rows: i32, output: usize, outputStride: usize): void {
  const dim = call.valueDim
  const head = pageHead(segment, kvHead)
  const padded = pad(dim, 4)
  const weightStride: usize = SCORE_STRIDE * 4
  const tile = <usize>call.tile
  const along = segment.kind == Kind.tokens
  const rotated = inRotatedSpace(segment, call.valueBlock)
  const direct = segment.kind == Kind.channels && rows - first <= DIRECT_ROWS && wholeWords(segment.bits, segment.group, 0)
  const lineWidth = (count + 3) & ~3
  let plain: usize = tile
  if (rotated) output += call.rotatedOutput
  const mapped = beforeMap(segment, at, count)
  const sums = output
  if (mapped) {
    output = call.mapped
    memory.fill(output + <usize>first * outputStride, 0, <usize>(rows - first) * outputStride)
  }
  const lookups = segment.kind == Kind.codebook && rows - first <= DIRECT_ROWS && (rotated || !segment.hadamard) && readsLookups(segment, dim)
  let table: usize = 0
  if (lookups) {
    table = lookupTable(segment, head, call.valueLookup)
    rowFactors(segment, head, segment.from + at, count, tile)
  } else if (along) plainLines(segment, head, at, count, dim, lineWidth, tile)
  else if (!direct) plain = plainRows(segment, head, at, count, dim, padded, tile, call.valueLookup, !rotated && !mapped, call.touched)
  for (let m = first; m < rows; ) {
    const h = blockOf(rows - m)
    const x = weights + <usize>m * weightStride
    const to = output + <usize>m * outputStride
    if (lookups) addLookups(h, x, weightStride, <usize>segment.data + <usize>head * segment.dataHead + <usize>(segment.from + at) * segment.dataLine, segment.dataLine, table, segment.tableUnit, tile, count, dim, to, outputStride, call.codeScratch)
    else if (along) dotRows(h, x, weightStride, plain, <usize>lineWidth * 4, dim, lineWidth, to, outputStride, 0, 0)
    else if (!direct) broughtNext(call, addRows(h, x, weightStride, plain, plain == tile ? <usize>padded * 4 : <usize>segment.dataLine, count, padded, to, outputStride, call.next, call.nextBytes))
    else {
      const line = <usize>(segment.from + at)
      addCodes(h, x, weightStride, <usize>segment.data + <usize>head * segment.dataHead + line * segment.dataLine, segment.dataLine, <usize>segment.metadata + <usize>head * segment.metadataHead + line * segment.metadataLine, segment.metadataLine, segment.wide, count, segment.bits, segment.group, 0, dim, to, outputStride, call.codeScratch)
    }
    m += h
  }
  if (mapped) addMapped(segment, head, segment.from + at, output, first, rows, dim, sums, outputStride, call.valueLookup)
}
