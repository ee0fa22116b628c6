import { concat, slice, type Tensor, tensor, tidy } from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { affineDecode } from '../affine/index'
import { codebookDecode } from '../codebook/index'
import type { RowSegment } from '../layouts'
import {
  affine,
  coupled,
  disposeSegments,
  f16,
  f32,
  higgs,
  makeSegments,
  mapped,
  type Piece,
  ranged,
  symmetric,
} from '../paged-attention/test-pages'
import { readRows } from '../rows/index'
import { largestError, onBackend, onBothBackends } from '../testing'
import { readSegments } from './index'

/** Codebook entries are scaled and rotated in f32: sums of up to 64 terms. */
const ROUNDING = 1e-5

const PIECES: readonly Piece[] = [
  { layout: f32, rows: 70, from: 1, page: 80 },
  { layout: f16, rows: 5, from: 2 },
  { layout: affine(2, 32, 'channels'), rows: 33, from: 3, page: 64 },
  { layout: affine(3, 32, 'tokens'), rows: 70, from: 32, page: 128 },
  { layout: symmetric(8, 32), rows: 33, from: 3, page: 64 },
  { layout: symmetric(5, 8), rows: 4 },
  { layout: higgs(2, 16, 32), rows: 40, from: 5, page: 64 },
  { layout: coupled(4, 256), rows: 9, from: 1 },
  { layout: coupled(2, 16), rows: 3 },
]

/** The rows of one segment, by the function for its layout. */
function decoded({ layout, tensors, table, from, rows }: RowSegment, heads: number, dim: number): Tensor {
  const [first, second] = tensors as readonly [Tensor, Tensor]
  if (layout.kind === 'dense') return readRows(first, layout.store, dim, from, rows)
  if (layout.kind === 'codebook') {
    const page = { heads, rows: first.shape[1] ?? 0, dim }
    const codes = { codes: first, ...(second ? { metadata: second } : {}) }
    return codebookDecode(codes, layout, table as Tensor, page, from, rows)
  }
  const page = layout.along === 'tokens' ? (second.shape[2] ?? 0) * layout.group : (first.shape[1] ?? 0)
  return affineDecode({ words: first, metadata: second }, layout, { heads, rows: page, dim }, from, rows)
}

test.each([32, 64])(
  'rows of every layout are those that its own function decodes, bit for bit, dim %i',
  async (dim) => {
    const [together, apart] = await onBackend('wasm', () => {
      const segments = makeSegments(PIECES, 3, dim, 7)
      const all = readSegments({ segments, heads: 3, dim })
      const each = tidy(() =>
        concat(
          segments.map((segment) => decoded(segment, 3, dim)),
          1,
        ),
      )
      disposeSegments(segments)
      return [all, each]
    })
    expect(together).toEqual(apart)
  },
)

test.each([32, 7])('wasm reads what the reference reads, dim %i', async (dim) => {
  const pieces = dim === 32 ? PIECES : PIECES.slice(0, 2)
  const { reference, wasm } = await onBothBackends(() => {
    const segments = makeSegments(pieces, 2, dim, 7)
    const all = readSegments({ segments, heads: 2, dim })
    disposeSegments(segments)
    return all
  })
  expect(largestError(wasm[0] ?? [], reference[0] ?? [])).toBeLessThan(ROUNDING)
})

test.each([1, 2, 3, 4, 5, 8])('ranges and outliers, bit for bit with the reference, %i bits', async (bits) => {
  for (const merged of [false, true])
    for (const scale of ['row', 'channel'] as const)
      for (const outliers of [0, 6]) {
        const layout = ranged(scale, 2 ** bits, outliers, outliers ? 'f16' : 'f32')
        const { reference, wasm } = await onBothBackends(() => {
          const segments = makeSegments([{ layout, rows: 40, from: 3, page: 50, merged }], 2, 40, 7)
          const all = readSegments({ segments, heads: 2, dim: 40 })
          disposeSegments(segments)
          return all
        })
        expect(wasm[0]).toEqual(reference[0])
      }
})

test.each([1, 6, 16])('maps, bit for bit with the reference, pieces of %i channels', async (piece) => {
  for (const merged of [false, true]) {
    const layout = mapped(15, piece, 10, merged ? 'f16' : 'f32')
    const { reference, wasm } = await onBothBackends(() => {
      const segments = makeSegments([{ layout, rows: 40, from: 3, page: 50, merged }], 2, 48, 7)
      const all = readSegments({ segments, heads: 2, dim: 48 })
      disposeSegments(segments)
      return all
    })
    expect(wasm[0]).toEqual(reference[0])
  }
})

test('heads that share a page have the same rows', async () => {
  const [all, one] = await onBackend('wasm', () => {
    const segments = makeSegments([{ layout: f16, rows: 6, share: 2 }], 4, 8, 7)
    const both = readSegments({ segments, heads: 4, dim: 8 })
    const apart = readSegments({ segments: segments.map((s) => ({ ...s, share: 1 })), heads: 2, dim: 8 })
    const heads = tidy(() => concat([0, 0, 1, 1].map((h) => slice(apart, [h, 0, 0], [1, -1, -1]))))
    apart.dispose()
    disposeSegments(segments)
    return [both, heads]
  })
  expect(all).toEqual(one)
})

test('refuses no segments, and pages of another shape or that are gone', async () => {
  await onBackend('cpu', () => {
    const rows = tensor(new Float32Array(2 * 6 * 8), [2, 6, 8])
    const segment: RowSegment = { layout: f32, tensors: [rows], from: 0, rows: 6 }
    expect(() => readSegments({ segments: [], heads: 2, dim: 8 })).toThrow(/at least one/)
    expect(() => readSegments({ segments: [segment], heads: 3, dim: 8 })).toThrow(/page/)
    expect(() => readSegments({ segments: [segment], heads: 2, dim: 9 })).toThrow(/page/)
    rows.dispose()
    expect(() => readSegments({ segments: [segment], heads: 2, dim: 8 })).toThrow(/disposed/)
    return []
  })
})
