// One KV head and one chunk of queries: its scratch, and the softmax with a running maximum and a running sum.
import { CALL_BYTES, Call, LOOKUP_BYTES, SCORE_STRIDE, TILE, pad } from './attention-call'
import { codeScratch } from './code-lines'
import { permutedScratch } from './code-rows'
import { butterfly } from './hadamard'
import { max4, sum4 } from './math'
import { DIRECT_ROWS } from './segments'
import { expBelowZero, logOf } from './softmax-math'
import { clear } from './transpose'

const MINUS_INFINITY: f32 = -Infinity

/** Scratch of one call, cut into its parts: byte offsets. */
// @ts-ignore: decorator
@inline
export function queryBytes(rows: i32, keyDim: i32): i32 {
  return rows * pad(keyDim, 4) * 4
}

// @ts-ignore: decorator
@inline
export function tileBytes(keyDim: i32, valueDim: i32): i32 {
  return max(pad(max(keyDim, valueDim), 4) * TILE * 4, permutedScratch(DIRECT_ROWS, keyDim))
}

/** Query rows of a chunk, query by query, padded to whole vectors: [variant][query][member][padded]. */
function copyQueries(call: Call, head: i32, firstQuery: i32, count: i32, to: usize): void {
  const padded = pad(call.keyDim, 4)
  const rowBytes = <usize>call.keyDim * 4
  for (let variant = 0; variant < call.variants; variant++) {
    const queries = <usize>load<u32>(changetype<usize>(call) + CALL_BYTES + <usize>variant * 4)
    for (let query = 0; query < count; query++) {
      for (let member = 0; member < call.members; member++) {
        memory.copy(to, queries + <usize>((head * call.group + call.firstMember + member) * call.n + firstQuery + query) * rowBytes, rowBytes)
        for (let k = call.keyDim; k < padded; k++) store<f32>(to + <usize>k * 4, 0)
        to += <usize>padded * 4
      }
    }
  }
}

/** Scales the scores of a row in place, puts -infinity where a row may not look (`seen` first tokens, `mask` if any), and returns the largest. */
export function maskScores(row: usize, seen: i32, mask: usize, scale: f32): f32 {
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
export function expScores(row: usize, seen: i32, shift: f32): f32 {
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
export function seenBy(call: Call, m: i32, firstQuery: i32, start: i32, count: i32): i32 {
  if (!call.causal) return count
  return max(0, min(count, call.total - call.n + firstQuery + m / call.members + 1 - start))
}

/** The same for the rows of a list, which is ascending. */
// @ts-ignore: decorator
@inline
function seenOfList(call: Call, m: i32, firstQuery: i32, list: usize, count: i32): i32 {
  if (!call.causal) return count
  const last = call.total - call.n + firstQuery + m / call.members
  while (count > 0 && load<i32>(list + <usize>(count - 1) * 4) > last) count--
  return count
}

/** Running maximum and sum of every query row take in a tile; `scores` become weights, `sums` (the output rows) are rescaled. `list`: the tile's row numbers, or 0 for those from `start` on. */
export function softmaxTile(call: Call, rows: i32, firstQuery: i32, start: i32, list: usize, count: i32, mask: usize): void {
  const scores = <usize>call.scores, maxima = <usize>call.maxima, totals = <usize>call.totals, output = <usize>call.sums, outputStride = <usize>call.sumsStride
  for (let m = 0; m < rows; m++) {
    const row = scores + <usize>m * SCORE_STRIDE * 4
    const at = <usize>m * 4
    const seen = list ? seenOfList(call, m, firstQuery, list, count) : seenBy(call, m, firstQuery, start, count)
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

/** Divides the scratch of one KV head and one chunk of queries, and begins with its queries, no score and no sums. */
export function beginChunk(call: Call, head: i32, firstQuery: i32, queries: i32): void {
  const rows = queries * call.members
  const plainStride = <usize>pad(call.valueDim, 64) * 4
  const outputStride: usize = call.valueBlock ? plainStride << 1 : plainStride
  const maxima = (<usize>call.keyLookup + 2 * LOOKUP_BYTES + 15) & ~15
  const totals = maxima + <usize>rows * 4
  const mask = (totals + <usize>rows * 4 + 15) & ~15
  const scores = mask + TILE * 4
  const query = scores + <usize>rows * SCORE_STRIDE * 4
  const queryEnd = query + <usize>call.variants * queryBytes(rows, call.keyDim)
  const output: usize = call.keyBlock ? queryEnd + (queryEnd - query) : queryEnd
  call.maxima = <u32>maxima
  call.totals = <u32>totals
  call.mask = <u32>mask
  call.scores = <u32>scores
  call.sums = <u32>output
  call.sumsStride = <u32>outputStride
  call.query = <u32>query
  call.rotatedQuery = <u32>queryEnd
  call.rotatedOutput = <u32>plainStride
  call.tile = <u32>(output + <usize>rows * outputStride)
  call.turned = call.tile + tileBytes(call.keyDim, call.valueDim)
  call.codeScratch = call.cos ? call.turned + tileBytes(call.keyDim, call.valueDim) : call.turned
  call.mapped = (call.codeScratch + codeScratch(max(call.keyDim, TILE)) + 15) & ~15

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
}

/** Writes what a chunk gave. */
export function endChunk(call: Call, head: i32, firstQuery: i32, queries: i32): void {
  for (let m = 0; m < queries * call.members; m++) {
    const row = (head * call.group + call.firstMember + m % call.members) * call.n + firstQuery + m / call.members
    finishRow(call, row, load<f32>(<usize>call.maxima + <usize>m * 4), load<f32>(<usize>call.totals + <usize>m * 4), <usize>call.sums + <usize>m * call.sumsStride)
  }
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
