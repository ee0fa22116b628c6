// Helpers for the tests of attention: segments of any layout made of given rows.
import type { Tensor } from '@tensorflow/tfjs-core'
import { tensor } from '@tensorflow/tfjs-core'
import { affineEncode } from '../affine/index'
import { codebookEncode } from '../codebook/index'
import { type CodebookLayout, codebookShapes } from '../codebook/layout'
import type { RowLayout, RowSegment } from '../layouts'
import { allocateRows, writeRows } from '../rows/index'
import { randomValues } from '../testing'

export const f32: RowLayout = { kind: 'dense', store: 'f32' }
export const f16: RowLayout = { kind: 'dense', store: 'f16' }
export const affine = (
  bits: number,
  group: number,
  along: 'tokens' | 'channels',
  metadata: 'f16' | 'f32' = 'f16',
): RowLayout => ({ kind: 'affine', bits, group, along, metadata })

/** HIGGS: shared table, a scale and a Hadamard transform for each group. */
export const higgs = (vector: number, entries: number, group: number, hadamard = group): CodebookLayout => ({
  kind: 'codebook',
  vector,
  entries,
  tables: 'shared',
  scale: 'group',
  group,
  hadamard,
})
/** Coupled Quantization: a table for each code of a row, no scales. */
export const coupled = (vector: number, entries: number): CodebookLayout => ({
  kind: 'codebook',
  vector,
  entries,
  tables: 'channels',
  scale: 'none',
  group: 0,
  hadamard: 0,
})

/** A run of rows to make: the page has `page` rows (default: just enough), the view takes `rows` of them from `from` on. */
export interface Piece {
  readonly layout: RowLayout
  readonly rows: number
  readonly from?: number
  readonly page?: number
  readonly query?: number
  readonly unrotated?: boolean
  readonly share?: number
}

/** Segments of random rows, from a seed; their tensors are the caller's. */
export function makeSegments(pieces: readonly Piece[], heads: number, dim: number, seed: number): RowSegment[] {
  return pieces.map(({ layout, rows, from = 0, page = from + rows, query = 0, unrotated = false, share = 1 }, i) => ({
    layout,
    ...makePage(layout, heads / share, page, dim, seed + i),
    from,
    rows,
    query,
    unrotated,
    share,
  }))
}

function makePage(
  layout: RowLayout,
  heads: number,
  rows: number,
  dim: number,
  seed: number,
): { tensors: Tensor[]; table?: Tensor } {
  const values = tensor(randomValues(heads * rows * dim, seed, 2), [heads, rows, dim])
  try {
    if (layout.kind === 'affine') {
      const { words, metadata } = affineEncode(values, layout)
      return { tensors: [words, metadata] }
    }
    if (layout.kind === 'codebook') {
      const shape = codebookShapes('test', layout, heads, rows, dim).table
      const table = tensor(
        randomValues(
          shape.reduce((a, b) => a * b, 1),
          seed + 1000,
          2,
        ),
        shape,
      )
      const { codes, metadata } = codebookEncode(values, layout, table)
      return { tensors: metadata ? [codes, metadata] : [codes], table }
    }
    const page = allocateRows(layout.store, heads, rows, dim)
    writeRows(page, layout.store, 0, values)
    return { tensors: [page] }
  } finally {
    values.dispose()
  }
}

export function disposeSegments(...lists: readonly RowSegment[][]): void {
  for (const segment of lists.flat()) for (const page of [...segment.tensors, segment.table]) page?.dispose()
}

export const rowsOfPieces = (pieces: readonly Piece[]): number => pieces.reduce((sum, piece) => sum + piece.rows, 0)
