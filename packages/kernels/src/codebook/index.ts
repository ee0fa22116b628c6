// Codebook codes: indices into tables of 1 to 8 channels, with or without a scale per group and a Hadamard rotation. Layouts: `CodebookLayout`.
import type { Tensor } from '@tensorflow/tfjs-core'
import { affineOverflowName } from '../affine/reference'
import { checkInteger, checkTensor } from '../check'
import { KernelInputError } from '../errors'
import { dispatch, dispatchMany } from '../kernel'
import { type CodebookLayout, checkCodebookPage, codebookShapes } from './layout'
import { codebookDecodeName, codebookEncodeName } from './reference'

/** Packed codes and, with scale 'group', the norms; the caller disposes both. */
export interface CodebookRows {
  /** int32 [heads, n, ceil(codes of a row * bits / 32)] */
  readonly codes: Tensor
  /** int32 [heads, ceil(n / 2), dim / group], halves of two rows a word, or float32 [heads, n, dim / group] */
  readonly metadata?: Tensor
}

/**
 * Quantizes rows to the nearest table entries, in f32, the lowest index on ties. Scale 'group' is HIGGS (arXiv 2411.17525): codes are computed with the
 * exact norm, which is then stored; a group of zeros gets the entry nearest the origin and comes back as zeros. Scale 'none' is Coupled
 * Quantization (arXiv 2405.03917): plain Euclidean distance. Half metadata overflows at norms of 65520: see `codebookOverflow`.
 * Rows of several heads quantized as one are given as one head of kvHeads * headDim channels.
 * @param rows float32 [heads, n, dim]
 * @param table float32 [entries, vector], or [heads, codes of a row, entries, vector] for tables 'channels'
 * @throws KernelInputError when shapes or layout do not fit
 */
export function codebookEncode(rows: Tensor, layout: CodebookLayout, table: Tensor): CodebookRows {
  checkTensor('codebookEncode', 'rows', rows, 'float32', ['heads', 'n', 'dim'])
  const [heads = 0, n = 0, dim = 0] = rows.shape
  checkPlain('codebookEncode', layout)
  checkTensor(
    'codebookEncode',
    'table',
    table,
    'float32',
    codebookShapes('codebookEncode', layout, heads, n, dim).table,
  )
  const [codes, metadata] = dispatchMany(codebookEncodeName, { rows, table }, { layout }) as [Tensor, Tensor?]
  return metadata ? { codes, metadata } : { codes }
}

/**
 * Reconstructs rows from..from+count, in f32: table entries times the factor of their group, then the Hadamard blocks.
 * @param shape heads, rows (encoded rows of the page) and dim
 * @param from first row, default 0
 * @param count rows, default all from `from` on
 * @returns float32 [heads, count, dim]
 * @throws KernelInputError when shapes, layout or range do not fit
 */
export function codebookDecode(
  { codes, metadata }: CodebookRows,
  layout: CodebookLayout,
  table: Tensor,
  shape: { heads: number; rows: number; dim: number },
  from = 0,
  count = shape.rows - from,
): Tensor {
  const where = 'codebookDecode'
  checkPlain(where, layout)
  const tensors = { codes, metadata, maps: undefined, outliers: undefined, places: undefined, table, ranges: undefined }
  const rows = checkCodebookPage(where, layout, tensors, shape.heads, shape.dim)
  if (rows !== shape.rows) {
    throw new KernelInputError({
      where,
      given: `rows = ${shape.rows}`,
      allowed: `the ${rows} rows of the page`,
      cure: "Pass the page's rows, and a part of them by from and count.",
    })
  }
  checkInteger(where, 'from', from, 0, rows)
  checkInteger(where, 'count', count, 0, rows - from)
  return dispatch(
    codebookDecodeName,
    { codes, table, ...(metadata ? { metadata } : {}) },
    { layout, ...shape, from, count },
  )
}

/** What ranges, maps and outliers are is the quantizer's to say, and pages with them have more tensors than are given here. */
function checkPlain(where: string, { scale, outliers = 0 }: CodebookLayout): void {
  if ((scale === 'none' || scale === 'group') && outliers === 0) return
  throw new KernelInputError({
    where,
    given: `scale '${scale}' and room for ${outliers} outliers`,
    allowed: "scale 'none' or 'group', without outliers",
    cure: "Encode the entries' side of such rows with scale 'none', and read pages of them by readSegments.",
  })
}

/**
 * Whether a norm is infinite or NaN, that is, rows were beyond the range of the metadata or held such values.
 * @param metadata as `codebookEncode` returned it
 * @returns int32 [1]: 1 when so
 */
export function codebookOverflow(metadata: Tensor): Tensor {
  checkTensor(
    'codebookOverflow',
    'metadata',
    metadata,
    metadata.dtype === 'int32' ? 'int32' : 'float32',
    metadata.shape,
  )
  return dispatch(affineOverflowName, { metadata })
}
