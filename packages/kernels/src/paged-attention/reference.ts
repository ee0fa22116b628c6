// Attention over segments, reference form, in double precision: softmax(scale * q k^T) v per query head, over rows taken from the segments.
import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core'
import { decodeElement } from '../affine/reference'
import type { CpuStorage } from '../cpu/storage'
import { cpuKernel } from '../kernel'
import type { RowSegment } from '../layouts'
import { storedValue } from '../rows/reference'
import { type AttentionAttributes, type AttentionCall, type MassAttributes, attentionMassName, pagedAttentionName } from './call'

/** One row of one KV head, with the query variant that reads it. */
interface Row {
  readonly values: Float64Array
  readonly query: number
}

/** Rows of one head, over all segments in order. */
function rowsOf(segments: readonly RowSegment[], head: number, dim: number, storage: CpuStorage): Row[] {
  return segments.flatMap((segment) => {
    const element = elementReader(segment, head, dim, storage)
    return Array.from({ length: segment.rows }, (_, row) => ({
      values: Float64Array.from({ length: dim }, (_, channel) => element(segment.from + row, channel)),
      query: segment.query ?? 0,
    }))
  })
}

function elementReader({ layout, tensors }: RowSegment, head: number, dim: number, storage: CpuStorage): (row: number, channel: number) => number {
  const [first, second] = tensors as readonly Tensor[] as readonly [Tensor, Tensor]
  if (layout.kind === 'dense') {
    const capacity = first.shape[1] ?? 0
    const stored = layout.store === 'f32' ? storage.float32(first) : storage.int32(first)
    return (row, channel) => storedValue(layout.store, stored, head * capacity + row, dim, channel)
  }
  const rows = layout.along === 'tokens' ? (second.shape[2] ?? 0) * layout.group : (first.shape[1] ?? 0)
  const words = storage.int32(first)
  const metadata = layout.metadata === 'f32' ? storage.float32(second) : storage.int32(second)
  return (row, channel) => decodeElement(words, metadata, layout, rows, dim, head, row, channel)
}

/** Scaled scores of one query head and query over all rows; -Infinity where it may not look. */
function scoresOf(call: AttentionCall, keys: readonly Row[], queryHead: number, query: number, storage: CpuStorage): number[] {
  const kvHead = Math.floor(queryHead / call.group)
  const at = (queryHead * call.n + query) * call.keyDim
  const variants = call.queries.map((variant) => storage.float32(variant).subarray(at, at + call.keyDim))
  const live = call.live ? storage.int32(call.live) : undefined
  return keys.map((key, row) => {
    if (call.causal && row > call.total - call.n + query) return -Infinity
    if (live && live[kvHead * call.total + row] === 0) return -Infinity
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
function forEachQuery(call: AttentionCall, storage: CpuStorage, use: (scores: readonly number[], queryHead: number, query: number) => void): void {
  for (let kvHead = 0; kvHead < call.kvHeads; kvHead++) {
    const keys = rowsOf(call.keys, kvHead, call.keyDim, storage)
    for (let queryHead = kvHead * call.group; queryHead < (kvHead + 1) * call.group; queryHead++) {
      for (let query = 0; query < call.n; query++) use(scoresOf(call, keys, queryHead, query, storage), queryHead, query)
    }
  }
}

export const pagedAttentionReference = cpuKernel<Record<string, TensorInfo>, AttentionAttributes>(pagedAttentionName, (_, { call }, storage) => {
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
      if (weight !== 0) row.values.forEach((value, channel) => (sums[channel] = (sums[channel] ?? 0) + weight * value))
    })
    storage.float32(output).set(sums, (queryHead * call.n + query) * call.valueDim)
  })
  return [...(call.valueDim > 0 ? [output] : []), ...(call.logSumExp ? [logSumExp] : [])]
})

export const attentionMassReference = cpuKernel<Record<string, TensorInfo>, MassAttributes>(attentionMassName, ({ logSumExp }, { call, reduce }, storage) => {
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
})
