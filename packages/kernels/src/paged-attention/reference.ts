// Attention over segments, reference form, in double precision: softmax(scale * q k^T) v per query head, over rows taken from the segments.
import type { TensorInfo } from '@tensorflow/tfjs-core'
import type { CpuStorage } from '../cpu/storage'
import { cpuKernel } from '../kernel'
import type { RowSegment } from '../layouts'
import { rowReader } from '../segment-rows/reader'
import {
  type AttentionAttributes,
  type AttentionCall,
  attentionMassName,
  type KeyRotation,
  type MassAttributes,
  pagedAttentionName,
  positionError,
} from './call'

/** One row of one KV head, with the query variant that reads it. */
interface Row {
  readonly values: Float64Array
  readonly query: number
}

/** Rows of one head, over all segments in order. */
function rowsOf(segments: readonly RowSegment[], head: number, dim: number, storage: CpuStorage): Row[] {
  return segments.flatMap((segment) => {
    const values = rowReader(segment, head, dim, storage)
    return Array.from({ length: segment.rows }, (_, row) => ({
      values: values(segment.from + row),
      query: segment.query ?? 0,
    }))
  })
}

/** Key rows of one head: those stored before the rotary embedding are rotated by their positions. */
function keyRowsOf(call: AttentionCall, head: number, storage: CpuStorage): Row[] {
  const rows = rowsOf(call.keys, head, call.keyDim, storage)
  const { rotation } = call
  if (rotation)
    forEachUnrotated(
      call,
      head,
      storage,
      (row, position) => rows[row] && rotate(rows[row].values, position, rotation, storage),
    )
  return rows
}

function forEachUnrotated(
  call: AttentionCall,
  head: number,
  storage: CpuStorage,
  use: (row: number, position: number) => void,
): void {
  if (!call.rotation) return
  const positions = storage.int32(call.rotation.positions)
  let row = 0
  for (const segment of call.keys) {
    for (let i = 0; i < segment.rows; i++, row++)
      if (segment.unrotated)
        use(row, positions[(call.rotation?.positions.shape[0] === 1 ? 0 : head * call.total) + row] ?? -1)
  }
}

/** Throws before anything is made. */
function checkPositions(call: AttentionCall, storage: CpuStorage): void {
  const [maxPositions = 0] = call.rotation?.cos.shape ?? []
  for (let head = 0; head < call.kvHeads; head++) {
    forEachUnrotated(call, head, storage, (_, position) => {
      if (position < 0 || position >= maxPositions) throw positionError(maxPositions)
    })
  }
}

/** Rotary embedding in place, half-split pairs (j, j + pairs). */
function rotate(values: Float64Array, position: number, { cos, sin }: KeyRotation, storage: CpuStorage): void {
  const [, pairs = 0] = cos.shape
  for (let j = 0; j < pairs; j++) {
    const [c, s] = [storage.float32(cos)[position * pairs + j] ?? 0, storage.float32(sin)[position * pairs + j] ?? 0]
    const [first, second] = [values[j] ?? 0, values[j + pairs] ?? 0]
    values[j] = first * c - second * s
    values[j + pairs] = second * c + first * s
  }
}

/** Scaled scores of one query head and query over all rows; -Infinity where it may not look. */
function scoresOf(
  call: AttentionCall,
  keys: readonly Row[],
  queryHead: number,
  query: number,
  storage: CpuStorage,
): number[] {
  const kvHead = Math.floor(queryHead / call.group)
  const at = (queryHead * call.n + query) * call.keyDim
  const variants = call.queries.map((variant) => storage.float32(variant).subarray(at, at + call.keyDim))
  const live = call.live ? storage.int32(call.live) : undefined
  const liveAt = call.live?.shape[0] === 1 ? 0 : kvHead * call.total
  const listed = call.lists && new Set(call.lists[queryHead])
  return keys.map((key, row) => {
    if (call.causal && row > call.total - call.n + query) return -Infinity
    if (live && live[liveAt + row] === 0) return -Infinity
    if (listed && !listed.has(row)) return -Infinity
    return call.scale * dot(variants[key.query] ?? key.values, key.values)
  })
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += (a[i] ?? 0) * (b[i] ?? 0)
  return sum
}

/** log(sum(exp(scores))), -Infinity when nothing may be seen. */
function logSumExpOf(scores: readonly number[]): number {
  const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity)
  if (largest === -Infinity) return -Infinity
  return largest + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - largest), 0))
}

/** Runs `use` for each query head and query with its scores. */
function forEachQuery(
  call: AttentionCall,
  storage: CpuStorage,
  use: (scores: readonly number[], queryHead: number, query: number) => void,
): void {
  for (let kvHead = 0; kvHead < call.kvHeads; kvHead++) {
    const keys = keyRowsOf(call, kvHead, storage)
    for (let queryHead = kvHead * call.group; queryHead < (kvHead + 1) * call.group; queryHead++) {
      for (let query = 0; query < call.n; query++)
        use(scoresOf(call, keys, queryHead, query, storage), queryHead, query)
    }
  }
}

export const pagedAttentionReference = cpuKernel<Record<string, TensorInfo>, AttentionAttributes>(
  pagedAttentionName,
  (_, { call }, storage) => {
    checkPositions(call, storage)
    const queryHeads = call.kvHeads * call.group
    const output = storage.makeOutput([queryHeads, call.n, call.valueDim], 'float32')
    const logSumExp = storage.makeOutput([queryHeads, call.n], 'float32')
    const values = Array.from({ length: call.kvHeads }, (_, head) => rowsOf(call.values, head, call.valueDim, storage))
    forEachQuery(call, storage, (scores, queryHead, query) => {
      const total = logSumExpOf(scores)
      storage.float32(logSumExp)[queryHead * call.n + query] = total
      if (total === -Infinity) return
      const sums = new Float64Array(call.valueDim)
      values[Math.floor(queryHead / call.group)]?.forEach((row, i) => {
        const weight = Math.exp((scores[i] ?? -Infinity) - total)
        if (weight !== 0)
          row.values.forEach((value, channel) => {
            sums[channel] = (sums[channel] ?? 0) + weight * value
          })
      })
      storage.float32(output).set(sums, (queryHead * call.n + query) * call.valueDim)
    })
    return [...(call.valueDim > 0 ? [output] : []), ...(call.logSumExp ? [logSumExp] : [])]
  },
)

export const attentionMassReference = cpuKernel<Record<string, TensorInfo>, MassAttributes>(
  attentionMassName,
  ({ logSumExp }, { call, reduce }, storage) => {
    checkPositions(call, storage)
    const output = storage.makeOutput([call.kvHeads * call.group, call.total], 'float32')
    const mass = storage.float32(output)
    forEachQuery(call, storage, (scores, queryHead, query) => {
      const given = logSumExp ? (storage.float32(logSumExp)[queryHead * call.n + query] ?? 0) : logSumExpOf(scores)
      if (given === -Infinity) return
      scores.forEach((score, row) => {
        const at = queryHead * call.total + row
        const weight = Math.exp(score - given)
        mass[at] = reduce === 'max' ? Math.max(mass[at] ?? 0, weight) : (mass[at] ?? 0) + weight
      })
    })
    return output
  },
)
