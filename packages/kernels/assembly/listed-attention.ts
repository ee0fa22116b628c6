// Attention of query heads that read a list of rows each: the rows of a tile are brought together first.
import { Call, SCORE_STRIDE, TILE, pad, pageHead, segmentAt } from './attention-call'
import { beginChunk, endChunk, softmaxTile } from './attention-chunk'
import { addRows, dotRows } from './dense-rows'
import { rotateRows } from './rotate-rows'
import { decodeSegment } from './segment-rows'
import { blockOf } from './segments'
import { clear } from './transpose'

/** Rows of a list that may be seen, as int32 masks; zeros after `count`. */
function copyListedLive(live: usize, list: usize, count: i32, mask: usize): void {
  for (let i = 0; i < TILE; i++) store<i32>(mask + <usize>i * 4, i < count && load<i32>(live + <usize>load<i32>(list + <usize>i * 4) * 4) != 0 ? -1 : 0)
}

/** scores[m][i] += query[m] . tile[i] for rows from..to of the tile, by variant `variant` of the queries. */
function addListedScores(call: Call, variant: i32, from: i32, to: i32, rows: i32): void {
  const padded = pad(call.keyDim, 4)
  const stride = <usize>padded * 4
  const queries = <usize>call.query + <usize>(variant * rows) * stride
  for (let m = 0; m < rows; ) {
    const h = blockOf(rows - m)
    dotRows(h, queries + <usize>m * stride, stride, <usize>call.tile + <usize>from * stride, stride, to - from, padded, <usize>call.scores + <usize>(m * SCORE_STRIDE + from) * 4, SCORE_STRIDE * 4, 0, 0)
    m += h
  }
}

/** One query head that reads a list of rows, and one chunk of its queries: rows are brought together tile by tile. */
export function attendListed(call: Call, head: i32, firstQuery: i32, queries: i32): void {
  beginChunk(call, head, firstQuery, queries)
  const starts = <usize>call.lists + <usize>(head * call.group + call.firstMember) * 4
  const length = load<i32>(starts, 4) - load<i32>(starts)
  const list = <usize>call.lists + <usize>(call.kvHeads * call.group + 1 + load<i32>(starts)) * 4
  const keyStride = <usize>pad(call.keyDim, 4) * 4, valueStride = <usize>pad(call.valueDim, 4) * 4
  const tile = <usize>call.tile
  let keySegment = 0, keyStart = 0, valueSegment = 0, valueStart = 0
  for (let at = 0; at < length; at += TILE) {
    const count = min(TILE, length - at)
    const numbers = list + <usize>at * 4
    clear(<usize>call.scores, <usize>queries * SCORE_STRIDE * 4)
    if (call.keyDim & 3) clear(tile, <usize>count * keyStride)
    let variant = -1, from = 0
    for (let i = 0; i < count; ) {
      const row = load<i32>(numbers + <usize>i * 4)
      while (row >= keyStart + segmentAt(call.keys, keySegment).rows) keyStart += segmentAt(call.keys, keySegment++).rows
      const segment = segmentAt(call.keys, keySegment)
      if (segment.query != variant) {
        if (i > 0) addListedScores(call, variant, from, i, queries)
        variant = segment.query
        from = i
      }
      const to = tile + <usize>i * keyStride
      const run = runOf(numbers, i, count, keyStart + segment.rows)
      decodeSegment(segment, pageHead(segment, head), row - keyStart, run, call.keyDim, to, keyStride, call.keyLookup, call.codeScratch)
      if (segment.unrotated) rotateRows(call, head, row, run, to, keyStride, to, pad(call.keyDim, 4))
      i += run
    }
    addListedScores(call, variant, from, count, queries)
    const mask: usize = call.live ? <usize>call.mask : 0
    if (mask) copyListedLive(<usize>call.live + <usize>(head * call.liveHead) * 4, numbers, count, mask)
    softmaxTile(call, queries, firstQuery, 0, numbers, count, mask)
    if (call.valueDim & 3) clear(tile, <usize>count * valueStride)
    for (let i = 0; i < count; ) {
      const row = load<i32>(numbers + <usize>i * 4)
      while (row >= valueStart + segmentAt(call.values, valueSegment).rows) valueStart += segmentAt(call.values, valueSegment++).rows
      const segment = segmentAt(call.values, valueSegment)
      const run = runOf(numbers, i, count, valueStart + segment.rows)
      decodeSegment(segment, pageHead(segment, head), row - valueStart, run, call.valueDim, tile + <usize>i * valueStride, valueStride, call.valueLookup, call.codeScratch)
      i += run
    }
    for (let m = 0; m < queries; ) {
      const h = blockOf(queries - m)
      addRows(h, <usize>call.scores + <usize>(m * SCORE_STRIDE) * 4, SCORE_STRIDE * 4, tile, valueStride, count, pad(call.valueDim, 4), <usize>call.sums + <usize>m * call.sumsStride, call.sumsStride, 0, 0)
      m += h
    }
  }
  endChunk(call, head, firstQuery, queries)
}

/** How many numbers of a list from `i` on follow each other and are smaller than `end`. */
// @ts-ignore: decorator
@inline
function runOf(numbers: usize, i: i32, count: i32, end: i32): i32 {
  const row = load<i32>(numbers + <usize>i * 4)
  let run = 1
  while (i + run < count && row + run < end && load<i32>(numbers + <usize>(i + run) * 4) == row + run) run++
  return run
}
