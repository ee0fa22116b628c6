// What the reference and the wasm form get: the public arguments, checked, with sizes worked out.
import type { Tensor } from '@tensorflow/tfjs-core'
import { KernelInputError } from '../errors'
import type { RowSegment } from '../layouts'

export const pagedAttentionName = 'KvloomPagedAttention'
export const attentionMassName = 'KvloomAttentionMass'

/** What turns keys that were stored before the rotary embedding. */
export interface KeyRotation {
  /** float32 [maxPositions, pairs]; 2 * pairs at most keyDim, later channels pass through */
  readonly cos: Tensor
  readonly sin: Tensor
  /** int32 [kvHeads, rows of all key segments], or [1, rows] where all heads have the same: position of each row, read for unrotated rows only */
  readonly positions: Tensor
}

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
  /** int32 [kvHeads, total], or [1, total] for all heads, 0 = dead row. */
  readonly live: Tensor | undefined
  readonly logSumExp: boolean
  /** The rows that each query head reads, ascending; all when undefined. */
  readonly lists: readonly Int32Array[] | undefined
  /** Given when a key segment is unrotated. */
  readonly rotation: KeyRotation | undefined
}

/** Hosts see the positions and refuse those outside the tables. */
export function positionError(maxPositions: number): KernelInputError {
  return new KernelInputError({
    where: 'pagedAttention',
    given: 'a position outside the rotation tables',
    allowed: `0 to ${maxPositions - 1}`,
    cure: 'Make longer cos and sin tables.',
  })
}

/** As attribute of the tfjs kernel. */
export type AttentionAttributes = { call: AttentionCall }
export type MassAttributes = { call: AttentionCall; reduce: 'sum' | 'max' }
