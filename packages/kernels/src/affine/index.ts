// Affine codes: b-bit integers with a scale and a minimum per group (KIVI, block formats). Layouts: `AffineLayout`.
import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger, checkTensor } from '../check'
import { KernelInputError } from '../errors'
import { dispatch, dispatchMany } from '../kernel'
import { type AffineLayout, affineShapes, checkAffinePage } from '../layouts'
import { blockEncodeName } from './block-reference'
import { affineDecodeName, affineEncodeName, affineOverflowName } from './reference'

/** Packed codes and their metadata; the caller disposes both. */
export interface AffineRows {
  /** int32: along tokens [heads, dim, ceil(n * bits / 32)], along channels [heads, n, ceil(dim * bits / 32)] */
  readonly words: Tensor
  /** int32 [heads, lines, groups] for 'f16' (low half scale, high half minimum), float32 [heads, lines, groups, 2] for 'f32' */
  readonly metadata: Tensor
}

/**
 * Quantizes rows by minimum and maximum, bit-exact with KIVI: each step is one f32 operation, codes round half to even. A constant group has
 * codes 0 and scale 0 and comes back exactly. With 'f16' metadata the codes are computed with the rounded scale and minimum;
 * rows beyond 65504 then leave infinities there: see `affineOverflow`.
 * @param rows float32 [heads, n, dim]
 * @throws KernelInputError when shape or layout do not fit; symmetric codes are made by `blockEncode`
 */
export function affineEncode(rows: Tensor, layout: AffineLayout): AffineRows {
  checkTensor('affineEncode', 'rows', rows, 'float32', ['heads', 'n', 'dim'])
  const [heads = 0, n = 0, dim = 0] = rows.shape
  affineShapes('affineEncode', layout, heads, n, dim)
  if (layout.symmetric)
    throw new KernelInputError({
      where: 'affineEncode',
      given: 'a symmetric layout',
      allowed: 'a layout with minima',
      cure: 'Use blockEncode.',
    })
  const [words, metadata] = dispatchMany(affineEncodeName, { rows }, { layout }) as [Tensor, Tensor]
  return { words, metadata }
}

/**
 * Quantizes rows as ggml does (`quantize_row_*_ref`), bit-exact; every step is one f32 operation. Codes are computed with the exact scale and
 * minimum, which are then rounded to halves; scales beyond 65504 leave infinities there.
 *
 *   symmetric, 8 bits   scale = max |x| / 127                       code = round(x / scale), halves away from zero, + 128
 *   symmetric, fewer    scale = m / -half, m the x of largest |x|   code = min(trunc(x / scale + half + 0.5), 2 half - 1), half = 2^(bits - 1)
 *   with minima         scale = (max - min) / top                   code = min(trunc((x - min) / scale + 0.5), top), top = 2^bits - 1
 *
 * Divisions by a scale are products with 1 / scale, 0 for 0.
 * @param rows float32 [heads, n, dim]
 * @param layout along channels, with 'f16' metadata
 * @throws KernelInputError when shape or layout do not fit
 */
export function blockEncode(rows: Tensor, layout: AffineLayout): AffineRows {
  const where = 'blockEncode'
  checkTensor(where, 'rows', rows, 'float32', ['heads', 'n', 'dim'])
  const [heads = 0, n = 0, dim = 0] = rows.shape
  affineShapes(where, layout, heads, n, dim)
  if (layout.along !== 'channels' || layout.metadata !== 'f16')
    throw new KernelInputError({
      where,
      given: `${layout.metadata} metadata along ${layout.along}`,
      allowed: "'f16' metadata along channels",
      cure: 'Use affineEncode.',
    })
  const [words, metadata] = dispatchMany(blockEncodeName, { rows }, { layout }) as [Tensor, Tensor]
  return { words, metadata }
}

/**
 * Reconstructs rows from..from+count: code * scale + minimum, two f32 operations, the minimum of symmetric codes being -2^(bits - 1) * scale.
 * @param shape heads, rows (encoded rows of the page) and dim
 * @param from first row, default 0
 * @param count rows, default all from `from` on
 * @returns float32 [heads, count, dim]
 * @throws KernelInputError when shapes, layout or range do not fit
 */
export function affineDecode(
  { words, metadata }: AffineRows,
  layout: AffineLayout,
  shape: { heads: number; rows: number; dim: number },
  from = 0,
  count = shape.rows - from,
): Tensor {
  const rows = checkAffinePage('affineDecode', layout, words, metadata, shape.heads, shape.dim)
  if (rows !== shape.rows) {
    throw new KernelInputError({
      where: 'affineDecode',
      given: `rows = ${shape.rows}`,
      allowed: `the ${rows} rows of the page`,
      cure: "Pass the page's rows, and a part of them by from and count.",
    })
  }
  checkInteger('affineDecode', 'from', from, 0, rows)
  checkInteger('affineDecode', 'count', count, 0, rows - from)
  return dispatch(affineDecodeName, { words, metadata }, { layout, ...shape, from, count })
}

/**
 * Whether a scale or minimum is infinite or NaN, that is, rows were beyond the range of the metadata or held such values.
 * @returns int32 [1]: 1 when so. Callers that can wait for the device read it and refuse the rows.
 */
export function affineOverflow({ metadata }: AffineRows): Tensor {
  checkTensor('affineOverflow', 'metadata', metadata, metadata.dtype === 'int32' ? 'int32' : 'float32', metadata.shape)
  return dispatch(affineOverflowName, { metadata })
}
