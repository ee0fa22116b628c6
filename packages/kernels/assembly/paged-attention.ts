// Attention over segments in one pass, with a running maximum and a running sum. A tile of at most 64 tokens is read once per KV head
// and used by all of its query rows; key and value segments have their own boundaries.
import { CALL_BYTES, Call, Kind, LOOKUP_BYTES, SCORE_STRIDE, TILE, pad, segmentAt } from './attention-call'
import { codeScratch } from './code-lines'
import { permutedScratch } from './code-rows'
import { butterfly } from './hadamard'
import { DIRECT_ROWS, addScores, addValues, setNext } from './segments'
import { expBelowZero, logOf } from './softmax-math'
import { clear } from './transpose'
import { max4, sum4 } from './math'

const MINUS_INFINITY: f32 = -Infinity
/** Query rows (queries times group) worked on at a time: their scores and sums stay in the L2 cache. */
const CHUNK_ROWS: i32 = 96

// @ts-ignore: decorator
@inline
function chunkQueries(group: i32, n: i32): i32 {
  return min(n, max(1, CHUNK_ROWS / group))
}

/** Scratch of one call, cut into its parts: byte offsets. */
// @ts-ignore: decorator
@inline
function queryBytes(rows: i32, keyDim: i32): i32 {
  return rows * pad(keyDim, 4) * 4
}

// @ts-ignore: decorator
@inline
function tileBytes(keyDim: i32, valueDim: i32): i32 {
  return max(pad(max(keyDim, valueDim), 4) * TILE * 4, permutedScratch(DIRECT_ROWS, keyDim))
}

/** Bytes of scratch that `pagedAttention` and `attentionMass` need. `keyBlock` and `valueBlock`: Hadamard blocks of the call; `turned`: 1 with keys stored before the rotary embedding. */
export function attentionScratch(group: i32, n: i32, keyDim: i32, valueDim: i32, variants: i32, keyBlock: i32, valueBlock: i32, turned: i32): i32 {
  const rows = chunkQueries(group, n) * group
  const queries = variants * queryBytes(rows, keyDim) * (keyBlock ? 2 : 1)
  const outputs = rows * pad(valueDim, 64) * 4 * (valueBlock ? 2 : 1)
  return rows * 8 + TILE * 4 + rows * SCORE_STRIDE * 4 + queries + outputs + tileBytes(keyDim, valueDim) * (turned ? 2 : 1) + codeScratch(max(keyDim, TILE)) + 2 * LOOKUP_BYTES + 128
}

/** Query rows of a chunk, query by query, padded to whole vectors: [variant][query][group][padded]. */
function copyQueries(call: Call, head: i32, firstQuery: i32, count: i32, to: usize): void {
  const padded = pad(call.keyDim, 4)
  const rowBytes = <usize>call.keyDim * 4
  for (let variant = 0; variant < call.variants; variant++) {
    const queries = <usize>load<u32>(changetype<usize>(call) + CALL_BYTES + <usize>variant * 4)
    for (let query = 0; query < count; query++) {
      for (let member = 0; member < call.group; member++) {
        memory.copy(to, queries + <usize>((head * call.group + member) * call.n + firstQuery + query) * rowBytes, rowBytes)
        for (let k = call.keyDim; k < padded; k++) store<f32>(to + <usize>k * 4, 0)
        to += <usize>padded * 4
      }
    }
  }
}

/** Rows of a tile that may be seen, as int32 masks; zeros after `count`. */
function copyLive(live: usize, count: i32, mask: usize): void {
  for (let i = 0; i < TILE; i++) store<i32>(mask + <usize>i * 4, i < count && load<i32>(live + <usize>i * 4) != 0 ? -1 : 0)
}

/** Scales the scores of a row in place, puts -infinity where a row may not look (`seen` first tokens, `mask` if any), and returns the largest. */
function maskScores(row: usize, seen: i32, mask: usize, scale: f32): f32 {
  const factor = f32x4.splat(scale)
  const never = f32x4.splat(MINUS_INFINITY)
  let largest = never
  const end = <usize>pad(seen, 4) * 4
  for (let t: usize = 0; t < end; t += 16) {
    let x = f32x4.mul(v128.load(row + t), factor)
    if (mask) x = v128.bitselect(x, never, v128.load(mask + t))
    const left = seen - <i32>(t >> 2)
    if (left < 4) x = v128.bitselect(x, never, i32x4.gt_s(i32x4.splat(left), i32x4(0, 1, 2, 3)))
    v128.store(row + t, x)
    largest = f32x4.pmax(largest, x)
  }
  return max4(largest)
}

/** Scores to exp(score - shift) in place, zeros after `seen`; returns their sum. Two vectors at a time hide the latency of the polynomial. */
function expScores(row: usize, seen: i32, shift: f32): f32 {
  const offset = f32x4.splat(shift)
  let sum = f32x4.splat(0), other = sum
  const end = <usize>pad(seen, 4) * 4
  let t: usize = 0
  for (; t + 32 <= end; t += 32) {
    const p = expBelowZero(f32x4.sub(v128.load(row + t), offset))
    const q = expBelowZero(f32x4.sub(v128.load(row + t, 16), offset))
    v128.store(row + t, p)
    v128.store(row + t, q, 16)
    sum = f32x4.add(sum, p)
    other = f32x4.add(other, q)
  }
  if (t < end) {
    const p = expBelowZero(f32x4.sub(v128.load(row + t), offset))
    v128.store(row + t, p)
    sum = f32x4.add(sum, p)
  }
  clear(row + end, <usize>SCORE_STRIDE * 4 - end)
  return sum4(f32x4.add(sum, other))
}

/** Tokens of the tile that start at `start` which query row m of the chunk sees. */
// @ts-ignore: decorator
@inline
function seenBy(call: Call, m: i32, firstQuery: i32, start: i32, count: i32): i32 {
  if (!call.causal) return count
  return max(0, min(count, call.total - call.n + firstQuery + m / call.group + 1 - start))
}

/** Running maximum and sum of every query row take in a tile; `scores` become weights, `sums` (the output rows) are rescaled. */
function softmaxTile(call: Call, rows: i32, firstQuery: i32, start: i32, count: i32, mask: usize, scores: usize, maxima: usize, totals: usize, output: usize, outputStride: usize): void {
  for (let m = 0; m < rows; m++) {
    const row = scores + <usize>m * SCORE_STRIDE * 4
    const at = <usize>m * 4
    const seen = seenBy(call, m, firstQuery, start, count)
    const old = load<f32>(maxima + at)
    const largest = max<f32>(old, maskScores(row, seen, mask, call.scale))
    if (largest == MINUS_INFINITY) {
      clear(row, SCORE_STRIDE * 4)
      continue
    }
    let total = load<f32>(totals + at)
    if (largest > old) {
      const correction = expBelowZero(f32x4.splat(old - largest))
      total *= f32x4.extract_lane(correction, 0)
      const end = output + <usize>(m + 1) * outputStride
      for (let to = output + <usize>m * outputStride; to < end; to += 16) v128.store(to, f32x4.mul(v128.load(to), correction))
      store<f32>(maxima + at, largest)
    }
    store<f32>(totals + at, total + expScores(row, seen, largest))
  }
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
  const plainStride = <usize>pad(call.valueDim, 64) * 4
  const outputStride: usize = call.valueBlock ? plainStride << 1 : plainStride
  const scoreStride: usize = SCORE_STRIDE * 4
  const maxima = (<usize>call.keyLookup + 2 * LOOKUP_BYTES + 15) & ~15
  const totals = maxima + <usize>rows * 4
  const mask = (totals + <usize>rows * 4 + 15) & ~15
  const scores = mask + TILE * 4
  const query = scores + <usize>rows * scoreStride
  const queryEnd = query + <usize>call.variants * queryBytes(rows, call.keyDim)
  const output: usize = call.keyBlock ? queryEnd + (queryEnd - query) : queryEnd
  call.query = <u32>query
  call.rotatedQuery = <u32>queryEnd
  call.rotatedOutput = <u32>plainStride
  call.tile = <u32>(output + <usize>rows * outputStride)
  call.turned = call.tile + tileBytes(call.keyDim, call.valueDim)
  call.codeScratch = call.cos ? call.turned + tileBytes(call.keyDim, call.valueDim) : call.turned

  copyQueries(call, head, firstQuery, queries, query)
  if (call.keyBlock) {
    memory.copy(queryEnd, query, queryEnd - query)
    for (let at = queryEnd; at < output; at += <usize>pad(call.keyDim, 4) * 4) butterfly(at, call.keyDim, call.keyBlock)
  }
  memory.fill(output, 0, <usize>rows * outputStride)
  for (let m = 0; m < rows; m++) {
    store<f32>(maxima + <usize>m * 4, MINUS_INFINITY)
    store<f32>(totals + <usize>m * 4, 0)
  }
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
    if (call.live) copyLive(<usize>call.live + (<usize>head * call.total + start) * 4, count, mask)
    const usedMask = call.live ? mask : 0
    if (call.mass) {
      addMass(call, head, rows, firstQuery, start, count, usedMask, scores)
      start += count
      continue
    }
    softmaxTile(call, rows, firstQuery, start, count, usedMask, scores, maxima, totals, output, outputStride)
    setNext(call, call.keys, call.keyCount, keySegment, keyAt, head)
    for (let done = 0; done < count && valueSegment < call.valueCount; ) {
      const segment = segmentAt(call.values, valueSegment)
      const take = min(count - done, segment.rows - valueAt)
      addValues(call, segment, head, valueAt, take, scores + <usize>done * 4, first, rows, output, outputStride)
      done += take
      valueAt += take
      if (valueAt == segment.rows) {
        valueSegment++
        valueAt = 0
      }
    }
    start += count
  }
  if (call.mass) return
  for (let m = 0; m < rows; m++) finishRow(call, (head * call.group + m % call.group) * call.n + firstQuery + m / call.group, load<f32>(maxima + <usize>m * 4), load<f32>(totals + <usize>m * 4), output + <usize>m * outputStride)
}

/** Divides an output row by its sum; rows that saw nothing are zeros with a log-sum-exp of -infinity. */
function finishRow(call: Call, row: i32, largest: f32, total: f32, sums: usize): void {
  const empty = largest == MINUS_INFINITY
  if (call.valueBlock) {
    const rotated = sums + call.rotatedOutput
    butterfly(rotated, call.valueDim, call.valueBlock)
    for (let k: usize = 0; k < <usize>call.valueDim * 4; k += 4) store<f32>(sums + k, load<f32>(sums + k) + load<f32>(rotated + k))
  }
  const to = <usize>call.output + <usize>row * call.valueDim * 4
  for (let k: usize = 0; k < <usize>call.valueDim * 4; k += 4) store<f32>(to + k, empty ? 0 : load<f32>(sums + k) / total)
  if (call.logSumExp) store<f32>(<usize>call.logSumExp + <usize>row * 4, empty ? MINUS_INFINITY : largest + logOf(total))
}

/** `call` points at a `Call` record. Fills its output and log-sum-exp, or its mass when that is not 0 (which the caller has set to zeros). */
export function pagedAttention(call: usize): void {
  const record = changetype<Call>(call)
  const step = chunkQueries(record.group, record.n)
  record.keyLookup = (record.scratch + 15) & ~15
  record.valueLookup = record.keyLookup + LOOKUP_BYTES
  record.touched = 0
  store<u32>(record.keyLookup, 0)
  store<u32>(record.valueLookup, 0)
  for (let head = 0; head < record.kvHeads; head++) {
    for (let first = 0; first < record.n; first += step) attendChunk(record, head, first, min(step, record.n - first))
  }
}
