// Attention over segments in one pass, with a running maximum and a running sum. A tile of at most 64 tokens is read once per KV head
// and used by all of its query rows; key and value segments have their own boundaries.
import { Call, Kind, LOOKUP_BYTES, SCORE_STRIDE, TILE, clearLookup, segmentAt, pad } from './attention-call'
import { beginChunk, endChunk, expScores, maskScores, queryBytes, seenBy, softmaxTile, tileBytes } from './attention-chunk'
import { codeScratch } from './code-lines'
import { attendListed } from './listed-attention'
import { addScores, addValues, setNext } from './segments'
import { clear } from './transpose'

const MINUS_INFINITY: f32 = -Infinity
/** Query rows (queries times group) worked on at a time: their scores and sums stay in the L2 cache. */
const CHUNK_ROWS: i32 = 96

// @ts-ignore: decorator
@inline
function chunkQueries(group: i32, n: i32): i32 {
  return min(n, max(1, CHUNK_ROWS / group))
}

/** Bytes of scratch that `pagedAttention` and `attentionMass` need. `keyBlock` and `valueBlock`: Hadamard blocks of the call; `turned`: 1 with keys stored before the rotary embedding; `mapped`: 1 with rows that maps are multiplied with. */
export function attentionScratch(group: i32, n: i32, keyDim: i32, valueDim: i32, variants: i32, keyBlock: i32, valueBlock: i32, turned: i32, mapped: i32): i32 {
  const rows = chunkQueries(group, n) * group
  const queries = variants * queryBytes(rows, keyDim) * (keyBlock ? 2 : 1)
  const outputs = rows * pad(valueDim, 64) * 4 * (valueBlock ? 2 : 1)
  return rows * 8 + TILE * 4 + rows * SCORE_STRIDE * 4 + queries + outputs + tileBytes(keyDim, valueDim) * (turned ? 2 : 1) + codeScratch(max(keyDim, TILE)) + 2 * LOOKUP_BYTES + 128 + (mapped ? max(rows * pad(keyDim, 4) * 4, outputs) : 0)
}

/** Rows of a tile that may be seen, as int32 masks; zeros after `count`. */
function copyLive(live: usize, count: i32, mask: usize): void {
  for (let i = 0; i < TILE; i++) store<i32>(mask + <usize>i * 4, i < count && load<i32>(live + <usize>i * 4) != 0 ? -1 : 0)
}

/** Adds weights to the masses of their tokens, or keeps the largest. */
function addMass(call: Call, head: i32, rows: i32, firstQuery: i32, start: i32, count: i32, mask: usize, scores: usize): void {
  for (let m = 0; m < rows; m++) {
    const row = scores + <usize>m * SCORE_STRIDE * 4
    const queryHead = head * call.group + m % call.group
    const seen = seenBy(call, m, firstQuery, start, count)
    const logSumExp = load<f32>(<usize>call.logSumExp + <usize>(queryHead * call.n + firstQuery + m / call.group) * 4)
    if (seen == 0 || logSumExp == MINUS_INFINITY) continue
    maskScores(row, seen, mask, call.scale)
    expScores(row, seen, logSumExp)
    const to = <usize>call.mass + (<usize>queryHead * call.total + start) * 4
    for (let t: usize = 0; t < <usize>seen * 4; t += 4) {
      const p = load<f32>(row + t)
      const old = load<f32>(to + t)
      store<f32>(to + t, call.largest ? max<f32>(old, p) : old + p)
    }
  }
}

/** First query row of the chunk that sees token `start`, in whole groups. */
// @ts-ignore: decorator
@inline
function firstRow(call: Call, firstQuery: i32, start: i32): i32 {
  if (!call.causal) return 0
  return max(0, start - (call.total - call.n + firstQuery)) * call.group
}

/** One KV head and one chunk of queries, over all tiles. */
function attendChunk(call: Call, head: i32, firstQuery: i32, queries: i32): void {
  const rows = queries * call.group
  beginChunk(call, head, firstQuery, queries)
  const scores = <usize>call.scores
  const scoreStride: usize = SCORE_STRIDE * 4
  const usedMask: usize = call.live ? <usize>call.mask : 0
  const end = call.causal ? call.total - call.n + firstQuery + queries : call.total
  let keySegment = 0, keyAt = 0, valueSegment = 0, valueAt = 0
  let start = 0
  while (start < end) {
    const first = firstRow(call, firstQuery, start)
    clear(scores, <usize>rows * scoreStride)
    let count = 0
    setNext(call, call.values, call.valueCount, valueSegment, valueAt, head)
    while (count < TILE && keySegment < call.keyCount) {
      const segment = segmentAt(call.keys, keySegment)
      if (segment.kind == Kind.tokens && count > 0) break
      const take = min(TILE - count, segment.rows - keyAt)
      addScores(call, segment, head, keyAt, take, start + count, first, rows, scores + <usize>count * 4)
      count += take
      keyAt += take
      if (keyAt == segment.rows) {
        keySegment++
        keyAt = 0
      }
    }
    if (call.live) copyLive(<usize>call.live + (<usize>head * call.liveHead + start) * 4, count, usedMask)
    if (call.mass) {
      addMass(call, head, rows, firstQuery, start, count, usedMask, scores)
      start += count
      continue
    }
    softmaxTile(call, rows, firstQuery, start, 0, count, usedMask)
    setNext(call, call.keys, call.keyCount, keySegment, keyAt, head)
    for (let done = 0; done < count && valueSegment < call.valueCount; ) {
      const segment = segmentAt(call.values, valueSegment)
      const take = min(count - done, segment.rows - valueAt)
      addValues(call, segment, head, valueAt, take, scores + <usize>done * 4, first, rows, call.sums, call.sumsStride)
      done += take
      valueAt += take
      if (valueAt == segment.rows) {
        valueSegment++
        valueAt = 0
      }
    }
    start += count
  }
  if (!call.mass) endChunk(call, head, firstQuery, queries)
}

/** `call` points at a `Call` record. Fills its output and log-sum-exp, or its mass when that is not 0 (which the caller has set to zeros). */
export function pagedAttention(call: usize): void {
  const record = changetype<Call>(call)
  const step = chunkQueries(record.group, record.n)
  record.keyLookup = (record.scratch + 15) & ~15
  record.valueLookup = record.keyLookup + LOOKUP_BYTES
  record.touched = 0
  clearLookup(record.keyLookup)
  clearLookup(record.valueLookup)
  record.firstMember = 0
  record.members = record.lists ? 1 : record.group
  for (let head = 0; head < record.kvHeads; head++) {
    for (let first = 0; first < record.n; first += step) {
      if (!record.lists) attendChunk(record, head, first, min(step, record.n - first))
      else for (record.firstMember = 0; record.firstMember < record.group; record.firstMember++) attendListed(record, head, first, min(step, record.n - first))
    }
  }
}
