// Codebook codes: what a page of them holds, and the table that gives the codes their meaning (HIGGS, TurboQuant, Coupled Quantization, KVQuant).
import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger, checkTensor } from '../check'
import { KernelInputError } from '../errors'

/**
 * A code names one of `entries` vectors of `vector` channels. Row decode: `y = factor * table[code]`, then `x = H y` on blocks of `hadamard` channels
 * (H orthonormal, its own inverse). With `scale: 'group'` each `group` channels keep their Euclidean norm s, and `factor = s / sqrt(group)`: entries are
 * in units of the group's root mean square. Else the factor is 1. With 'row' and 'channel', which go without a Hadamard transform,
 * `x = y * range + offset`: range and offset of the row, or of each channel. With 'map', which goes without a Hadamard transform too, pieces of `group`
 * channels are `x = (s * y) M`: s of the row, M of its block of `block` rows.
 *
 * codes int32 [heads, rows, ceil(codes of a row * bits / 32)], bits = ceil(log2(entries)): a stream along channels, lowest bits first. Codes start
 * anew at every group (without groups: at every row), so ceil(group / vector) codes a group; the last vector may be cut short.
 * metadata (scale 'group'): int32 [heads, ceil(rows / 2), dim / group], word (i, g) the halves of row 2i (low) and row 2i + 1 (high; 0 when there is
 * no such row); or float32 [heads, rows, dim / group] for 'f32'.
 * metadata (scale 'row'): int32 [heads, rows, 1], halves of range (low) and offset (high); or float32 [heads, rows, 2] for 'f32'.
 * metadata (scale 'map'): halves of s, int32 [heads, rows / block, ceil(block / 2)]; or float32 [heads, rows / block, block] for 'f32'.
 * maps (scale 'map'): halves of M, row after row, int32 [heads, rows / block, ceil(group * group / 2)]; or float32 [heads, rows / block, group * group].
 * outliers: halves of the numbers that stand in place of what the codes say, int32 [heads, rows, ceil(outliers / 2)]; or float32
 * [heads, rows, outliers] for 'f32'. In rising order of their channels; what is left of the room holds anything.
 * places: their channels, int32 [heads, rows, ceil(outliers * bytes / 4)], lowest byte first: one byte each below 256 channels, else two. The number of
 * channels stands for no outlier.
 * table: float32 [entries, vector] for 'shared', [heads, codes of a row, entries, vector] for 'channels'.
 * ranges (scale 'channel'): float32 [heads, 2, dim], ranges and offsets.
 */
export interface CodebookLayout {
  readonly kind: 'codebook'
  /** Channels of one code: 1, 2, 4, 6 or 8. */
  readonly vector: number
  /** Entries of a table, 2 to 4096. */
  readonly entries: number
  /** One table for all, or one for each head and code of a row. */
  readonly tables: 'shared' | 'channels'
  readonly scale: 'none' | 'group' | 'row' | 'channel' | 'map'
  /** Channels that share a scale, or channels of a piece (64 at most), a divisor of the row's channels; read with scale 'group' and 'map' only. */
  readonly group: number
  /** Rows that share a map, with scale 'map' only. */
  readonly block?: number
  /** How scales, ranges of rows, maps and outliers are kept. Default 'f16'. */
  readonly metadata?: 'f16' | 'f32'
  /** How many exact numbers a row has room for beside its codes. Default 0. */
  readonly outliers?: number
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
  readonly maps: number[] | undefined
  readonly outliers: number[] | undefined
  readonly places: number[] | undefined
  readonly table: number[]
  readonly ranges: number[] | undefined
}

/** Channels of a piece that a map takes, at most. */
const mostPiece = 64

/** Numbers of channels, and the number that stands for none, take two bytes at most. */
const mostChannels = 2 ** 16 - 1

/** Bytes of the place of an outlier among `dim` channels. */
export const placeBytes = (dim: number): 1 | 2 => (dim < 256 ? 1 : 2)

/** Sizes and shapes of `rows` encoded rows. Throws KernelInputError when the layout does not fit rows of `dim` channels. */
export function codebookShapes(
  where: string,
  layout: CodebookLayout,
  heads: number,
  rows: number,
  dim: number,
): CodebookSizes {
  const { vector, entries, tables, scale, group, metadata = 'f16', hadamard, outliers = 0, block = 0 } = layout
  const wide = metadata === 'f32'
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
  if (scale !== 'none' && scale !== 'group' && hadamard > 0)
    throw new KernelInputError({
      where,
      given: `Hadamard blocks of ${hadamard} with scale '${scale}'`,
      allowed: '0',
      cure: 'Rotate the rows before they are encoded.',
    })
  if (scale === 'map') checkMap(where, group, block, rows, dim)
  checkInteger(where, 'outliers', outliers, 0, scale === 'map' ? 0 : dim)
  if (outliers > 0) checkInteger(where, 'channels of a row with outliers', dim, 1, mostChannels)
  /** Halves lie two in a word. */
  const width = (numbers: number) => (wide ? numbers : Math.ceil(numbers / 2))
  const bits = codebookBits(entries)
  const units = (dim / span) * Math.ceil(span / vector)
  const groups = dim / span
  return {
    bits,
    span,
    units,
    codes: [heads, rows, Math.ceil((units * bits) / 32)],
    metadata:
      scale === 'group'
        ? [heads, wide ? rows : Math.ceil(rows / 2), groups]
        : scale === 'row'
          ? [heads, rows, width(2)]
          : scale === 'map'
            ? [heads, rows / block, width(block)]
            : undefined,
    maps: scale === 'map' ? [heads, rows / block, width(group * group)] : undefined,
    outliers: outliers > 0 ? [heads, rows, width(outliers)] : undefined,
    places: outliers > 0 ? [heads, rows, Math.ceil((outliers * placeBytes(dim)) / 4)] : undefined,
    table: tables === 'shared' ? [entries, vector] : [heads, units, entries, vector],
    ranges: scale === 'channel' ? [heads, 2, dim] : undefined,
  }
}

function checkMap(where: string, piece: number, block: number, rows: number, dim: number): void {
  checkInteger(where, 'group', piece, 1, mostPiece)
  checkInteger(where, 'block', block, 1)
  if (dim % piece === 0 && rows % block === 0) return
  throw new KernelInputError({
    where,
    given: `${rows} rows of ${dim} channels in blocks of ${block} rows and pieces of ${piece} channels`,
    allowed: 'whole blocks and whole pieces',
    cure: 'Encode whole blocks, in pieces that divide the row.',
  })
}

/**
 * Whether kernels can read the heads of pages that hold all of them as one row: `dim` channels each, whose codes begin at a whole byte, and no code,
 * group, piece or Hadamard block of which belongs to two heads.
 */
export function readsMergedHeads(layout: CodebookLayout, dim: number): boolean {
  const { vector, scale, group, hadamard, entries } = layout
  const span = scale === 'group' ? group : dim
  if (dim % span !== 0 || span % vector !== 0 || (hadamard > 0 && dim % hadamard !== 0)) return false
  if (scale === 'map' && dim % group !== 0) return false
  return ((dim / vector) * codebookBits(entries)) % 8 === 0
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

/** Tensors of an encoded page, and those that belong to its model. */
export interface CodebookTensors {
  readonly codes: Tensor
  readonly metadata: Tensor | undefined
  readonly maps: Tensor | undefined
  readonly outliers: Tensor | undefined
  readonly places: Tensor | undefined
  readonly table: Tensor | undefined
  readonly ranges: Tensor | undefined
}

/** The tensors of a page by name: codes, then those that its layout has, in this order. */
export function codebookTensors<T>(
  { scale, outliers = 0 }: CodebookLayout,
  tensors: readonly T[],
): Record<'codes' | 'metadata' | 'maps' | 'outliers' | 'places', T | undefined> {
  let at = 0
  const next = (has: boolean) => (has ? tensors[at++] : undefined)
  return {
    codes: next(true),
    metadata: next(scale === 'group' || scale === 'row' || scale === 'map'),
    maps: next(scale === 'map'),
    outliers: next(outliers > 0),
    places: next(outliers > 0),
  }
}

/** Checks the tensors of an encoded page and its table; returns the page's rows. */
export function checkCodebookPage(
  where: string,
  layout: CodebookLayout,
  tensors: CodebookTensors,
  heads: number,
  dim: number,
): number {
  const { codes } = tensors
  const rows = codes.shape[1] ?? 0
  const shapes = codebookShapes(where, layout, heads, rows, dim)
  checkTensor(where, 'codes', codes, 'int32', shapes.codes)
  const stored = layout.metadata === 'f32' ? 'float32' : 'int32'
  for (const name of ['metadata', 'maps', 'outliers', 'places'] as const) {
    const [tensor, shape] = [tensors[name], shapes[name]]
    if ((shape === undefined) !== (tensor === undefined)) {
      throw new KernelInputError({
        where,
        given: `${tensor ? '' : 'no '}${name} with scale '${layout.scale}' and room for ${layout.outliers ?? 0} outliers`,
        allowed:
          "metadata with scale 'group', 'row' or 'map', maps with scale 'map', outliers and places with room for them, and only there",
        cure: 'Pass the tensors of one page.',
      })
    }
    if (tensor && shape) checkTensor(where, name, tensor, name === 'places' ? 'int32' : stored, shape)
  }
  for (const name of ['table', 'ranges'] as const) {
    const [tensor, shape] = [tensors[name], shapes[name]]
    if (!shape) continue
    if (!tensor)
      throw new KernelInputError({
        where,
        given: `codes without a ${name === 'table' ? 'table' : 'tensor of ranges'}`,
        allowed: `float32 [${shape.join(', ')}]`,
        cure: 'Pass the one they were encoded with.',
      })
    checkTensor(where, name, tensor, 'float32', shape)
  }
  return rows
}
