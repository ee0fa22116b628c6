// Rows of many pages as f32, in one pass.
import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger } from '../check'
import { KernelInputError } from '../errors'
import { dispatch } from '../kernel'
import type { RowSegment } from '../layouts'
import { checkSegments } from '../paged-attention/segments'
import { readSegmentsName } from './reference'

export interface ReadSegmentsOptions {
  /** Runs of rows of any mix of layouts; `query` and `unrotated` are not looked at. */
  readonly segments: readonly RowSegment[]
  /** KV heads, of which each segment has as many, or fewer that are shared. */
  readonly heads: number
  readonly dim: number
}

/**
 * Decodes the rows of segments, one segment after the other, as `readRows`, `affineDecode` and `codebookDecode` decode those of a page.
 * @returns float32 [heads, rows of all segments, dim]
 * @throws KernelInputError when there is no segment, shapes or dtypes do not fit, or a page is disposed
 */
export function readSegments({ segments, heads, dim }: ReadSegmentsOptions): Tensor {
  const where = 'readSegments'
  checkInteger(where, 'heads', heads, 1)
  checkInteger(where, 'dim', dim, 1)
  if (segments.length === 0)
    throw new KernelInputError({
      where,
      given: 'no segments',
      allowed: 'at least one',
      cure: 'Make a tensor without rows yourself.',
    })
  const total = checkSegments(where, 'keys', segments, heads, dim, Infinity)
  return dispatch(readSegmentsName, {}, { segments, heads, dim, total })
}
