// What the reference and the wasm form get: the public arguments, checked, with sizes worked out.
import type { Tensor } from '@tensorflow/tfjs-core'
import type { RowSegment } from '../layouts'

export const pagedAttentionName = 'KvloomPagedAttention'
export const attentionMassName = 'KvloomAttentionMass'

export interface AttentionCall {
  /** Query variants, each float32 [queryHeads, n, keyDim]. */
  readonly queries: readonly Tensor[]
  readonly keys: readonly RowSegment[]
  /** None (and valueDim 0) when only the log-sum-exp is wanted. */
  readonly values: readonly RowSegment[]
  readonly kvHeads: number
  readonly group: number
  readonly n: number
  readonly keyDim: number
  readonly valueDim: number
  /** Rows of all key segments. */
  readonly total: number
  readonly scale: number
  readonly causal: boolean
  /** int32 [kvHeads, total], 0 = dead row. */
  readonly live: Tensor | undefined
  readonly logSumExp: boolean
}

/** As attribute of the tfjs kernel. */
export type AttentionAttributes = { call: AttentionCall }
export type MassAttributes = { call: AttentionCall; reduce: 'sum' | 'max' }
