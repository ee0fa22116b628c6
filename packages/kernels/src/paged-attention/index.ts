// Attention over pages in one pass, and the attention mass that tokens receive.
import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger, checkTensor } from '../check'
import { KernelInputError } from '../errors'
import { dispatch, dispatchMany } from '../kernel'
import type { RowSegment } from '../layouts'
import { type AttentionCall, attentionMassName, type KeyRotation, pagedAttentionName } from './call'
import { checkSegments } from './segments'

/** wasm against the reference (double precision), relative to 1 + |reference|: sums of thousands of f32 products, exponential good to 2e-7. */
export const attentionTolerance = 1e-5

interface QueryOptions {
  /** Query variants, already rotated, each float32 [queryHeads, n, keyDim]; a key segment names the one that reads it. Query head h reads KV head floor(h / (queryHeads / kvHeads)). */
  readonly queries: readonly Tensor[]
  /** Runs of key rows, in the order of the tokens; keep the objects from call to call, their checks are remembered. */
  readonly keys: readonly RowSegment[]
  readonly kvHeads: number
  /** Factor of the scores, usually 1 / sqrt(head dimension). */
  readonly scale: number
  /** int32 [kvHeads, rows of all key segments], or [1, rows] for all heads; 0 hides a row. Default: all rows live. */
  readonly live?: Tensor
  /** The last n rows are the queries' own: query i sees rows up to total - n + i. */
  readonly causal: boolean
  /** Needed when a key segment is `unrotated`: tables and the position of every key row. Rows are rotated as `rope` does. */
  readonly rotation?: KeyRotation
}

export interface PagedAttentionOptions extends QueryOptions {
  /** Runs of value rows, as many rows as keys in all, with boundaries of their own. */
  readonly values: readonly RowSegment[]
  readonly keyDim: number
  readonly valueDim: number
  /** Return the log-sum-exp of the scaled scores too. Default false. */
  readonly logSumExp?: boolean
  /** For each query head the numbers of the rows that it reads, ascending; the others are not looked at. Default: all rows. */
  readonly lists?: readonly Int32Array[]
}

/**
 * softmax(scale * q k^T) v over segments of any mix of layouts, without materialising rows or scores. A query that sees no row gets zeros and a log-sum-exp of -Infinity.
 * @returns output float32 [queryHeads, n, valueDim]; logSumExp float32 [queryHeads, n] when asked
 * @throws KernelInputError when shapes, dtypes or row counts do not fit, a page is disposed, or (cpu and wasm) a position lies outside the tables
 */
export function pagedAttention(options: PagedAttentionOptions): { output: Tensor; logSumExp?: Tensor } {
  const { values, keyDim, valueDim, logSumExp = false, lists } = options
  const where = 'pagedAttention'
  checkInteger(where, 'keyDim', keyDim, 1)
  checkInteger(where, 'valueDim', valueDim, 1)
  const base = checkCall(where, options, keyDim)
  const valueRows = checkSegments(where, 'values', values, options.kvHeads, valueDim, Infinity)
  if (valueRows !== base.total) {
    throw new KernelInputError({
      where,
      given: `${base.total} key rows and ${valueRows} value rows`,
      allowed: 'as many key rows as value rows',
      cure: 'Pass segments that cover the same tokens.',
    })
  }
  if (lists) checkLists(where, lists, base)
  const [output, sums] = dispatchMany(pagedAttentionName, inputsOf(options), {
    call: { ...base, values, valueDim, logSumExp, lists } satisfies AttentionCall,
  }) as [Tensor, Tensor?]
  return sums ? { output, logSumExp: sums } : { output }
}

export interface AttentionMassOptions extends QueryOptions {
  /** float32 [queryHeads, n] of the same scores, as `pagedAttention` returns it. Default: computed here, at the price of a second pass over the keys. */
  readonly logSumExp?: Tensor
  /** What is taken over the n queries: the sum or the maximum. */
  readonly reduce: 'sum' | 'max'
}

/**
 * Attention that each row receives from each query head: sum or maximum over the queries of exp(score - logSumExp).
 * @returns float32 [queryHeads, rows of all key segments]; 0 for rows that are hidden from every query
 * @throws KernelInputError when shapes, dtypes or row counts do not fit, a page is disposed, or (cpu and wasm) a position lies outside the tables
 */
export function attentionMass(options: AttentionMassOptions): Tensor {
  const { logSumExp, reduce } = options
  const base = checkCall('attentionMass', options, options.queries[0]?.shape[2] ?? 0)
  if (logSumExp) checkTensor('attentionMass', 'logSumExp', logSumExp, 'float32', [base.kvHeads * base.group, base.n])
  const call: AttentionCall = { ...base, values: [], valueDim: 0, logSumExp: false, lists: undefined }
  return dispatch(attentionMassName, { ...inputsOf(options), ...(logSumExp ? { logSumExp } : {}) }, { call, reduce })
}

type CheckedCall = Omit<AttentionCall, 'values' | 'valueDim' | 'logSumExp' | 'lists'>

function checkCall(
  where: string,
  { queries, keys, kvHeads, scale, live, causal, rotation }: QueryOptions,
  keyDim: number,
): CheckedCall {
  const [first] = queries
  checkInteger(where, 'kvHeads', kvHeads, 1)
  if (!first || keys.length === 0) {
    throw new KernelInputError({
      where,
      given: `${queries.length} queries and ${keys.length} key segments`,
      allowed: 'at least one of each',
      cure: 'Append rows before attending.',
    })
  }
  const [queryHeads = 0, n = 0] = first.shape
  queries.forEach((query, i) => {
    checkTensor(where, `queries[${i}]`, query, 'float32', [queryHeads, n, keyDim])
  })
  if (queryHeads % kvHeads !== 0 || queryHeads === 0 || n === 0) {
    throw new KernelInputError({
      where,
      given: `${queryHeads} query heads and ${n} queries for ${kvHeads} KV heads`,
      allowed: 'a multiple of the KV heads, and at least one query',
      cure: "Check the model's head counts.",
    })
  }
  if (!Number.isFinite(scale))
    throw new KernelInputError({
      where,
      given: `scale = ${scale}`,
      allowed: 'a finite number',
      cure: 'Use 1 / sqrt(head dimension).',
    })
  const total = checkSegments(where, 'keys', keys, kvHeads, keyDim, queries.length)
  if (causal && total < n) {
    throw new KernelInputError({
      where,
      given: `${n} causal queries over ${total} rows`,
      allowed: "the queries' own rows among the keys",
      cure: 'Append the new rows before attending.',
    })
  }
  if (live) checkTensor(where, 'live', live, 'int32', [live.shape[0] === 1 ? 1 : kvHeads, total])
  return {
    queries,
    keys,
    kvHeads,
    group: queryHeads / kvHeads,
    n,
    keyDim,
    total,
    scale,
    causal,
    live,
    rotation: checkRotation(where, keys, rotation, kvHeads, total, keyDim),
  }
}

/** Lists are host data, so their numbers are seen here: one that names a row that is not there would read foreign memory. */
function checkLists(where: string, lists: readonly Int32Array[], { kvHeads, group, total }: CheckedCall): void {
  const fits = (list: Int32Array): boolean => {
    let before = -1
    for (let i = 0; i < list.length; i++) {
      const row = list[i] as number
      if (row <= before || row >= total) return false
      before = row
    }
    return true
  }
  if (lists.length === kvHeads * group && lists.every(fits)) return
  throw new KernelInputError({
    where,
    given: `${lists.length} lists of rows for ${kvHeads * group} query heads and ${total} rows`,
    allowed: `a list for each query head, ascending, of rows 0 to ${total - 1}`,
    cure: 'Sort the numbers of each list, and name each row once.',
  })
}

/** The rotation, checked, when a key segment needs it. */
function checkRotation(
  where: string,
  keys: readonly RowSegment[],
  rotation: KeyRotation | undefined,
  kvHeads: number,
  total: number,
  keyDim: number,
): KeyRotation | undefined {
  if (!keys.some((segment) => segment.unrotated)) return undefined
  if (!rotation)
    throw new KernelInputError({
      where,
      given: 'unrotated keys without a rotation',
      allowed: 'cos, sin and positions',
      cure: 'Pass rotation.',
    })
  checkTensor(where, 'rotation.cos', rotation.cos, 'float32', ['maxPositions', 'pairs'])
  checkTensor(where, 'rotation.sin', rotation.sin, 'float32', rotation.cos.shape)
  checkTensor(where, 'rotation.positions', rotation.positions, 'int32', [
    rotation.positions.shape[0] === 1 ? 1 : kvHeads,
    total,
  ])
  const pairs = rotation.cos.shape[1] ?? 0
  if (2 * pairs > keyDim)
    throw new KernelInputError({
      where,
      given: `tables of ${pairs} pairs for keys of ${keyDim}`,
      allowed: `${Math.floor(keyDim / 2)} pairs at most`,
      cure: "Build the tables for this head's dim.",
    })
  return rotation
}

/** Tensors that tfjs should know as inputs; pages travel in the call, since there may be hundreds. */
function inputsOf({ queries, live }: QueryOptions): Record<string, Tensor> {
  const inputs: Record<string, Tensor> = live ? { live } : {}
  queries.forEach((query, i) => {
    inputs[`query${i}`] = query
  })
  return inputs
}
