// Helpers for the tests of attention: segments of any layout made of given rows.
import type { Tensor } from '@tensorflow/tfjs-core'
import { tensor } from '@tensorflow/tfjs-core'
import { affineEncode } from '../affine/index'
import { codebookEncode } from '../codebook/index'
import { type CodebookLayout, codebookShapes, placeBytes } from '../codebook/layout'
import { type AffineLayout, affineShapes, type RowLayout, type RowSegment } from '../layouts'
import { halfFromFloat } from '../rows/half'
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

/** Block formats without a minimum. */
export const symmetric = (bits: number, group: number, metadata: 'f16' | 'f32' = 'f16'): AffineLayout => ({
  kind: 'affine',
  bits,
  group,
  along: 'channels',
  metadata,
  symmetric: true,
})

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

/** KVQuant: levels of one table, with a range and an offset of each row or channel, and room for exact numbers. */
export const ranged = (
  scale: 'row' | 'channel',
  entries: number,
  outliers: number,
  metadata: 'f16' | 'f32' = 'f16',
  vector = 1,
): CodebookLayout => ({
  kind: 'codebook',
  vector,
  entries,
  tables: 'shared',
  scale,
  group: 0,
  metadata,
  outliers,
  hadamard: 0,
})

/** DecoQuant: levels of one table, a scale of each row, and pieces of `piece` channels times a map of each block of `block` rows. */
export const mapped = (
  entries: number,
  piece: number,
  block: number,
  metadata: 'f16' | 'f32' = 'f16',
): CodebookLayout => ({
  kind: 'codebook',
  vector: 1,
  entries,
  tables: 'shared',
  scale: 'map',
  group: piece,
  block,
  metadata,
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
  /** The page has its heads side by side in each row. */
  readonly merged?: boolean
}

/** Segments of random rows, from a seed; their tensors are the caller's. */
export function makeSegments(pieces: readonly Piece[], heads: number, dim: number, seed: number): RowSegment[] {
  return pieces.map(({ layout, rows, from = 0, page = from + rows, merged, ...piece }, i) => {
    const { query = 0, unrotated = false, share = 1 } = piece
    const own = heads / share
    const made = merged
      ? { ...makePage(layout, 1, page, own * dim, seed + i), mergedHeads: own }
      : makePage(layout, own, page, dim, seed + i)
    return { layout, ...made, from, rows, query, unrotated, share }
  })
}

function makePage(
  layout: RowLayout,
  heads: number,
  rows: number,
  dim: number,
  seed: number,
): { tensors: Tensor[]; table?: Tensor; ranges?: Tensor } {
  const values = tensor(randomValues(heads * rows * dim, seed, 2), [heads, rows, dim])
  try {
    if (layout.kind === 'affine' && layout.symmetric) return { tensors: symmetricPage(layout, heads, rows, dim, seed) }
    if (layout.kind === 'affine') {
      const { words, metadata } = affineEncode(values, layout)
      return { tensors: [words, metadata] }
    }
    if (layout.kind === 'codebook') {
      const shapes = codebookShapes('test', layout, heads, rows, dim)
      const table = tensor(randomValues(sizeOf(shapes.table), seed + 1000, 2), shapes.table)
      if ((layout.scale !== 'none' && layout.scale !== 'group') || layout.outliers)
        return rangedPage(values, layout, table, seed)
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

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)

/** Random codes and scales. */
function symmetricPage(layout: AffineLayout, heads: number, rows: number, dim: number, seed: number): Tensor[] {
  const shapes = affineShapes('test', layout, heads, rows, dim)
  const random = (shape: readonly number[], from: number) => randomValues(sizeOf(shape), seed + from, 2)
  const words = Int32Array.from(random(shapes.words, 1), (x) => Math.floor(x * 2 ** 29))
  const scales = random(shapes.metadata, 2).map((x) => x / 2 ** layout.bits)
  const halves = Int32Array.from(scales, (x) => halfFromFloat(x) | (halfFromFloat(-x / 3) << 16))
  return [
    tensor(words, shapes.words, 'int32'),
    layout.metadata === 'f32' ? tensor(scales, shapes.metadata) : tensor(halves, shapes.metadata, 'int32'),
  ]
}

/** Codes of rows, with random ranges, and outliers at some of the places that there is room for. */
function rangedPage(
  values: Tensor,
  layout: CodebookLayout,
  table: Tensor,
  seed: number,
): { tensors: Tensor[]; table: Tensor; ranges?: Tensor } {
  const [heads = 0, rows = 0, dim = 0] = values.shape
  const shapes = codebookShapes('test', layout, heads, rows, dim)
  const { codes } = codebookEncode(values, { ...layout, scale: 'none', outliers: 0 }, table)
  const numbers = (shape: readonly number[] | undefined, lines: number[][]): Tensor[] =>
    shape ? [linesOf([...shape], lines, layout.metadata ?? 'f16')] : []
  const lines = Array.from({ length: heads * rows }, (_, line) => line)
  const { scale, group, block = 1 } = layout
  const blocks = lines.slice(0, lines.length / block)
  const numbersOf = (count: number, from: number, size: number) => (line: number) => [
    ...randomValues(count, seed + from + 31 * line, size),
  ]
  const pairs = scale === 'map' ? blocks.map(numbersOf(block, 0, 3)) : lines.map(numbersOf(2, 0, 3))
  // Maps that leave rows about as long as they are.
  const maps = blocks.map(numbersOf(group * group, 500, 1 / Math.sqrt(group)))
  const room = layout.outliers ?? 0
  const found = lines.map((line) => placesOf(line, room, dim))
  const outliers = found.map((places, line) => [...randomValues(places.length, seed + 17 * line, 9)])
  const ranges = shapes.ranges && tensor(randomValues(sizeOf(shapes.ranges), seed + 2000, 3), shapes.ranges)
  const tensors = [codes, ...numbers(shapes.metadata, pairs), ...numbers(shapes.maps, maps)]
  tensors.push(...numbers(shapes.outliers, outliers))
  if (shapes.places) tensors.push(placeWords(found, room, dim, shapes.places))
  return { tensors, table, ...(ranges ? { ranges } : {}) }
}

/** Some channels of a row, rising: none, some, or as many as there is room for. */
const placesOf = (line: number, room: number, dim: number): number[] => {
  const count = Math.min(room, dim, line % (room + 2))
  return Array.from({ length: count }, (_, i) => Math.floor(((i + (line % 7) / 7) * dim) / count))
}

function linesOf(shape: number[], lines: readonly number[][], metadata: 'f16' | 'f32'): Tensor {
  const width = shape[2] ?? 0
  if (metadata === 'f32') {
    const all = new Float32Array(sizeOf(shape))
    for (const [i, line] of lines.entries()) all.set(line, i * width)
    return tensor(all, shape)
  }
  const words = new Int32Array(sizeOf(shape))
  for (const [i, line] of lines.entries())
    for (const [k, number] of line.entries()) {
      const at = i * width + (k >> 1)
      words[at] = (words[at] ?? 0) | (halfFromFloat(number) << (16 * (k & 1)))
    }
  return tensor(words, shape, 'int32')
}

function placeWords(found: readonly number[][], room: number, dim: number, shape: number[]): Tensor {
  const bytes = new Uint8Array(4 * sizeOf(shape))
  const each = placeBytes(dim)
  for (const [line, places] of found.entries())
    for (let slot = 0; slot < room; slot++) {
      const place = places[slot] ?? dim
      const at = 4 * line * (shape[2] ?? 0) + slot * each
      bytes[at] = place & 255
      if (each === 2) bytes[at + 1] = place >> 8
    }
  return tensor(new Int32Array(bytes.buffer), shape, 'int32')
}

export function disposeSegments(...lists: readonly RowSegment[][]): void {
  for (const { tensors, table, ranges } of lists.flat()) for (const page of [...tensors, table, ranges]) page?.dispose()
}

export const rowsOfPieces = (pieces: readonly Piece[]): number => pieces.reduce((sum, piece) => sum + piece.rows, 0)
