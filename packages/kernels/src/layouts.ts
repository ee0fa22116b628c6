// How rows of keys or values are stored in a page, and views of pages. Words are int32 tensors; halves lie two in a word, the even one low.
import type { Tensor } from '@tensorflow/tfjs-core'
import { checkInteger, checkTensor } from './check'
import type { CodebookLayout } from './codebook/layout'
import { KernelInputError } from './errors'

/** Exact rows. 'f32': float32 [heads, capacity, dim]. 'f16': int32 [heads, capacity, ceil(dim / 2)], rounded to nearest even. */
export type RowStore = 'f32' | 'f16'

/**
 * Codes of `bits` bits with a scale and a minimum for each group of `group` elements; value = code * scale + minimum.
 * `along: 'tokens'` groups consecutive tokens of one channel: words [heads, dim, ceil(n * bits / 32)], metadata [heads, dim, n / group].
 * `along: 'channels'` groups consecutive channels of one token: words [heads, n, ceil(dim * bits / 32)], metadata [heads, n, dim / group].
 * Element i of a line lies at bits i * bits on, lowest bits first. Metadata 'f16' is int32 (low half scale, high half minimum),
 * 'f32' is float32 with a last axis of 2: (scale, minimum).
 * `symmetric`, along channels only: value = (code - 2^(bits - 1)) * scale, and no minimum is kept. Metadata is then int32 [heads, n, ceil(dim / group / 2)]
 * for 'f16', halves of two groups a word, the even one low, and float32 [heads, n, dim / group] for 'f32'.
 */
export interface AffineLayout {
  readonly kind: 'affine'
  /** Bits of a code, 1 to 8. */
  readonly bits: number
  /** Elements that share a scale and a minimum; divides the axis it runs along. */
  readonly group: number
  readonly along: 'tokens' | 'channels'
  readonly metadata: 'f16' | 'f32'
  /** Codes around zero, with a scale and no minimum. Default false. */
  readonly symmetric?: boolean
}

export interface DenseLayout {
  readonly kind: 'dense'
  readonly store: RowStore
}

export type RowLayout = DenseLayout | AffineLayout | CodebookLayout

/** A run of rows of one page, as attention reads it. Treat it as immutable: its checked form is kept for as long as the object lives, so make a new object when a view changes. */
export interface RowSegment {
  readonly layout: RowLayout
  /** The page: [rows] of a row store, [words, metadata] of affine codes; of codebook codes [codes], then metadata, maps, outliers and places where the layout has them. */
  readonly tensors: readonly Tensor[]
  /** First row of the page in this view; a multiple of `group` for codes along tokens. */
  readonly from: number
  /** Rows in this view, at least 1. */
  readonly rows: number
  /** Keys only: number of the query variant that reads this segment. Default 0. */
  readonly query?: number
  /** Codebook codes only: their table, as `codebookEncode` took it. */
  readonly table?: Tensor
  /** Codebook codes of scale 'channel' only: ranges and offsets of the channels, float32 [heads, 2, dim]. */
  readonly ranges?: Tensor
  /** Keys only: the rows were stored before the rotary embedding, and are rotated by their positions when read. Default false. */
  readonly unrotated?: boolean
  /** How many adjacent KV heads read each head of the page, which has so many times fewer. Default 1. */
  readonly share?: number
  /**
   * How many heads each row of the page holds side by side: the page has one head then, and each KV head reads its own channels. Codebook codes only,
   * where `readsMergedHeads` holds. Default: the page has its heads apart.
   */
  readonly mergedHeads?: number
}

/** Words or floats of one stored row. */
export function rowWidth(store: RowStore, dim: number): number {
  return store === 'f16' ? Math.ceil(dim / 2) : dim
}

/** Shapes of the tensors of `rows` encoded rows. Throws KernelInputError when bits, group or rows do not fit. */
export function affineShapes(
  where: string,
  layout: AffineLayout,
  heads: number,
  rows: number,
  dim: number,
): { words: number[]; metadata: number[] } {
  checkInteger(where, 'bits', layout.bits, 1, 8)
  checkInteger(where, 'group', layout.group, 1)
  const alongTokens = layout.along === 'tokens'
  const [lines, elements] = alongTokens ? [dim, rows] : [rows, dim]
  if (elements % layout.group !== 0) {
    throw new KernelInputError({
      where,
      given: `${elements} ${alongTokens ? 'tokens' : 'channels'} in groups of ${layout.group}`,
      allowed: `a multiple of the group size along ${layout.along}`,
      cure: alongTokens ? 'Encode whole groups of tokens.' : 'Choose a group size that divides the head dimension.',
    })
  }
  const groups = elements / layout.group
  const wide = layout.metadata === 'f32'
  if (layout.symmetric && alongTokens)
    throw new KernelInputError({
      where,
      given: 'symmetric codes along tokens',
      allowed: 'symmetric codes along channels',
      cure: 'Keep a minimum.',
    })
  return {
    words: [heads, lines, Math.ceil((elements * layout.bits) / 32)],
    metadata: layout.symmetric
      ? [heads, lines, wide ? groups : Math.ceil(groups / 2)]
      : [heads, lines, groups, ...(wide ? [2] : [])],
  }
}

/** Number by which the wasm kernels know how metadata lies: `Metadata` of assembly/affine.ts. */
export const metadataForm = ({ symmetric = false, metadata }: Pick<AffineLayout, 'symmetric' | 'metadata'>): number =>
  (symmetric ? 2 : 0) + (metadata === 'f32' ? 1 : 0)

/** Checks the two tensors of an encoded page and returns its number of rows. */
export function checkAffinePage(
  where: string,
  layout: AffineLayout,
  words: Tensor,
  metadata: Tensor,
  heads: number,
  dim: number,
): number {
  const rows = layout.along === 'tokens' ? (metadata.shape[2] ?? 0) * layout.group : (words.shape[1] ?? 0)
  const shapes = affineShapes(where, layout, heads, rows, dim)
  checkTensor(where, 'words', words, 'int32', shapes.words)
  checkTensor(where, 'metadata', metadata, layout.metadata === 'f32' ? 'float32' : 'int32', shapes.metadata)
  return rows
}

/** Checks a page of exact rows and returns its capacity in rows. */
export function checkRowPage(
  where: string,
  store: RowStore,
  page: Tensor,
  heads: number | string,
  dim: number,
): number {
  checkTensor(where, 'page', page, store === 'f16' ? 'int32' : 'float32', [heads, 'capacity', rowWidth(store, dim)])
  return page.shape[1] ?? 0
}
