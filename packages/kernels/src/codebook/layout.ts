// Codebook codes: what a page of them holds, and the table that gives the codes their meaning (HIGGS, TurboQuant, Coupled Quantization, KVQuant).
import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger, checkTensor } from '../check'
import { KernelInputError } from '../errors'

/**
 * A code names one of `entries` vectors of `vector` channels. Row decode: `y = factor * table[code]`, then `x = H y` on blocks of `hadamard` channels
 * (H orthonormal, its own inverse). With `scale: 'group'` each `group` channels keep their Euclidean norm s, and `factor = s / sqrt(group)`: entries are
 * in units of the group's root mean square. With 'none' the factor is 1.
 *
 * codes int32 [heads, rows, ceil(codes of a row * bits / 32)], bits = ceil(log2(entries)): a stream along channels, lowest bits first. Codes start
 * anew at every group ('none': at every row), so ceil(group / vector) codes a group; the last vector may be cut short.
 * metadata (scale 'group'): int32 [heads, ceil(rows / 2), dim / group], word (i, g) the halves of row 2i (low) and row 2i + 1 (high; 0 when there is
 * no such row); or float32 [heads, rows, dim / group] for 'f32'.
 * table: float32 [entries, vector] for 'shared', [heads, codes of a row, entries, vector] for 'channels'.
 */
export interface CodebookLayout {
  readonly kind: 'codebook'
  /** Channels of one code: 1, 2, 4, 6 or 8. */
  readonly vector: number
  /** Entries of a table, 2 to 4096. */
  readonly entries: number
  /** One table for all, or one for each head and code of a row. */
  readonly tables: 'shared' | 'channels'
  readonly scale: 'none' | 'group'
  /** Channels that share a scale, a divisor of the row's channels; read with scale 'group' only. */
  readonly group: number
  /** How scales are kept. Default 'f16'. */
  readonly metadata?: 'f16' | 'f32'
  /** Channels of a Hadamard block: 0 for none, or a power of two that divides the row's channels (and, with scale 'group', the group). */
  readonly hadamard: number
}

const vectors: readonly number[] = [1, 2, 4, 6, 8]

/** Bits of one code. */
export function codebookBits(entries: number): number {
  return Math.ceil(Math.log2(entries))
}

/** Sizes that follow from a layout and a row's channels. */
export interface CodebookSizes {
  readonly bits: number
  /** Channels after which codes start anew: the group, or the whole row. */
  readonly span: number
  /** Codes of a row. */
  readonly units: number
  readonly codes: number[]
  readonly metadata: number[] | undefined
  readonly table: number[]
}

/** Sizes and shapes of `rows` encoded rows. Throws KernelInputError when the layout does not fit rows of `dim` channels. */
export function codebookShapes(
  where: string,
  layout: CodebookLayout,
  heads: number,
  rows: number,
  dim: number,
): CodebookSizes {
  const { vector, entries, tables, scale, group, metadata = 'f16', hadamard } = layout
  if (!vectors.includes(vector))
    throw new KernelInputError({
      where,
      given: `vector = ${vector}`,
      allowed: vectors.join(', '),
      cure: 'Change vector.',
    })
  checkInteger(where, 'entries', entries, 2, 4096)
  if (scale === 'group') checkInteger(where, 'group', group, 1)
  const span = scale === 'group' ? group : dim
  if (dim % span !== 0)
    throw new KernelInputError({
      where,
      given: `${dim} channels in groups of ${group}`,
      allowed: 'a multiple of the group size',
      cure: 'Choose a group size that divides the row, or pad the row.',
    })
  checkHadamardBlock(where, hadamard, span)
  const bits = codebookBits(entries)
  const units = (dim / span) * Math.ceil(span / vector)
  const groups = dim / span
  return {
    bits,
    span,
    units,
    codes: [heads, rows, Math.ceil((units * bits) / 32)],
    metadata: scale === 'none' ? undefined : [heads, metadata === 'f32' ? rows : Math.ceil(rows / 2), groups],
    table: tables === 'shared' ? [entries, vector] : [heads, units, entries, vector],
  }
}

/** Throws KernelInputError unless `block` is 0 or a power of two that divides `span` channels. */
export function checkHadamardBlock(where: string, block: number, span: number): void {
  if (
    block === 0 ||
    (Number.isInteger(block) && block > 0 && 2 ** Math.round(Math.log2(block)) === block && span % block === 0)
  )
    return
  throw new KernelInputError({
    where,
    given: `Hadamard blocks of ${block} in ${span} channels`,
    allowed: '0, or a power of two that divides the channels that share a scale',
    cure: 'Choose another block, or pad the row.',
  })
}

/** Checks the tensors of an encoded page and its table; returns the page's rows. */
export function checkCodebookPage(
  where: string,
  layout: CodebookLayout,
  tensors: { codes: Tensor; metadata: Tensor | undefined; table: Tensor | undefined },
  heads: number,
  dim: number,
): number {
  const { codes, metadata, table } = tensors
  const rows = codes.shape[1] ?? 0
  const shapes = codebookShapes(where, layout, heads, rows, dim)
  checkTensor(where, 'codes', codes, 'int32', shapes.codes)
  if ((shapes.metadata === undefined) !== (metadata === undefined)) {
    throw new KernelInputError({
      where,
      given: `${metadata ? '' : 'no '}metadata with scale '${layout.scale}'`,
      allowed: "metadata with scale 'group' and only there",
      cure: 'Pass the tensors that codebookEncode returned.',
    })
  }
  if (metadata && shapes.metadata)
    checkTensor(where, 'metadata', metadata, layout.metadata === 'f32' ? 'float32' : 'int32', shapes.metadata)
  if (!table)
    throw new KernelInputError({
      where,
      given: 'codes without a table',
      allowed: `float32 [${shapes.table.join(', ')}]`,
      cure: 'Pass the table they were encoded with.',
    })
  checkTensor(where, 'table', table, 'float32', shapes.table)
  return rows
}
