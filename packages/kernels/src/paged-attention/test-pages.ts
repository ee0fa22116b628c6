// Helpers for the tests of attention: segments of any layout made of given rows.
import type { Tensor } from '@tensorflow/tfjs-core'
import { tensor } from '@tensorflow/tfjs-core'
import { affineEncode } from '../affine/index'
import type { RowLayout, RowSegment } from '../layouts'
import { allocateRows, writeRows } from '../rows/index'
import { randomValues } from '../testing'

export const f32: RowLayout = { kind: 'dense', store: 'f32' }
export const f16: RowLayout = { kind: 'dense', store: 'f16' }
export const affine = (bits: number, group: number, along: 'tokens' | 'channels', metadata: 'f16' | 'f32' = 'f16'): RowLayout => ({ kind: 'affine', bits, group, along, metadata })

/** A run of rows to make: the page has `page` rows (default: just enough), the view takes `rows` of them from `from` on. */
export interface Piece {
  readonly layout: RowLayout
  readonly rows: number
  readonly from?: number
  readonly page?: number
  readonly query?: number
}

/** Segments of random rows, from a seed; their tensors are the caller's. */
export function makeSegments(pieces: readonly Piece[], heads: number, dim: number, seed: number): RowSegment[] {
  return pieces.map(({ layout, rows, from = 0, page = from + rows, query = 0 }, i) => ({ layout, tensors: makePage(layout, heads, page, dim, seed + i), from, rows, query }))
}

function makePage(layout: RowLayout, heads: number, rows: number, dim: number, seed: number): Tensor[] {
  const values = tensor(randomValues(heads * rows * dim, seed, 2), [heads, rows, dim])
  try {
    if (layout.kind === 'affine') {
      const { words, metadata } = affineEncode(values, layout)
      return [words, metadata]
    }
    const page = allocateRows(layout.store, heads, rows, dim)
    writeRows(page, layout.store, 0, values)
    return [page]
  } finally {
    values.dispose()
  }
}

export function disposeSegments(...lists: readonly RowSegment[][]): void {
  for (const segment of lists.flat()) for (const page of segment.tensors) page.dispose()
}

export const rowsOfPieces = (pieces: readonly Piece[]): number => pieces.reduce((sum, piece) => sum + piece.rows, 0)
