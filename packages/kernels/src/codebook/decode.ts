// Row decode of codebook pages in plain TypeScript, every step one f32 operation: it defines what codes mean.

import { butterfly } from '../hadamard/reference'
import { floatFromHalf } from '../rows/half'
import { type CodebookLayout, type CodebookSizes, codebookShapes, placeBytes } from './layout'

/** Storage of one encoded page of `rows` rows. */
export interface CodebookPage {
  readonly codes: Int32Array
  readonly metadata: Int32Array | Float32Array | undefined
  readonly table: Float32Array
  readonly rows: number
  /** Scale 'channel': ranges and offsets of the channels of every head. */
  readonly ranges?: Float32Array | undefined
  readonly maps?: Int32Array | Float32Array | undefined
  readonly outliers?: Int32Array | Float32Array | undefined
  readonly places?: Int32Array | undefined
}

/** What turns table entries into values: 1 / sqrt(group) undoes the norm's growth, 1 / sqrt(block) makes the Hadamard transform orthonormal. */
export function codebookFactor({ scale, group, hadamard }: CodebookLayout): number {
  return Math.fround(1 / Math.sqrt((scale === 'group' ? group : 1) * Math.max(1, hadamard)))
}

/** Stored norm of a group, counted over the row; with maps the factor of the row. */
function scaleAt(
  { metadata, rows }: CodebookPage,
  { scale, metadata: store, block = 1 }: CodebookLayout,
  groups: number,
  head: number,
  row: number,
  group: number,
): number {
  if (scale === 'map' && metadata) {
    const line = (head * rows + row - (row % block)) / block
    return storedNumber(metadata, line * widthOf(metadata, block), row % block)
  }
  if (scale !== 'group' || !metadata) return 1
  if (store === 'f32') return metadata[(head * rows + row) * groups + group] ?? 0
  const word = metadata[(head * Math.ceil(rows / 2) + (row >> 1)) * groups + group] ?? 0
  return floatFromHalf((word >>> (16 * (row & 1))) & 0xffff)
}

/** Number `at` of a line of stored numbers that starts at `from`: halves lie two in a word. */
const storedNumber = (line: Int32Array | Float32Array, from: number, at: number): number =>
  line instanceof Float32Array
    ? (line[from + at] ?? 0)
    : floatFromHalf(((line[from + (at >> 1)] ?? 0) >>> (16 * (at & 1))) & 0xffff)

/** Words or floats of a line of `numbers` stored numbers. */
const widthOf = (stored: Int32Array | Float32Array, numbers: number): number =>
  stored instanceof Float32Array ? numbers : Math.ceil(numbers / 2)

/** Pieces of a row times the map of its block, sums in the order of the piece's numbers, each step one f32 operation. */
function mapRow(
  output: Float32Array,
  { maps, rows }: CodebookPage,
  { scale, group, block = 1 }: CodebookLayout,
  head: number,
  row: number,
): void {
  if (scale !== 'map' || !maps) return
  const from = ((head * rows + row - (row % block)) / block) * widthOf(maps, group * group)
  const map = Float32Array.from({ length: group * group }, (_, at) => storedNumber(maps, from, at))
  const given = output.slice()
  for (let start = 0; start < output.length; start += group)
    for (let to = 0; to < group; to++) {
      let sum = 0
      for (let i = 0; i < group; i++)
        sum = Math.fround(sum + Math.fround((given[start + i] ?? 0) * (map[i * group + to] ?? 0)))
      output[start + to] = sum
    }
}

/** A row of entries to `y * range + offset`, each step one f32 operation. */
function moveRow(
  output: Float32Array,
  { metadata, ranges, rows }: CodebookPage,
  { scale }: CodebookLayout,
  head: number,
  row: number,
): void {
  const dim = output.length
  if (scale === 'channel' && ranges) {
    const at = 2 * head * dim
    for (let k = 0; k < dim; k++)
      output[k] = Math.fround((output[k] ?? 0) * (ranges[at + k] ?? 0)) + (ranges[at + dim + k] ?? 0)
  }
  if (scale !== 'row' || !metadata) return
  const from = (head * rows + row) * (metadata instanceof Float32Array ? 2 : 1)
  const [range, offset] = [storedNumber(metadata, from, 0), storedNumber(metadata, from, 1)]
  for (let k = 0; k < dim; k++) output[k] = Math.fround((output[k] ?? 0) * range) + offset
}

/** Puts the outliers of a row in their places. */
function placeOutliers(
  output: Float32Array,
  { outliers, places, rows }: CodebookPage,
  sizes: CodebookSizes,
  room: number,
  head: number,
  row: number,
): void {
  if (!outliers || !places) return
  const dim = output.length
  const line = head * rows + row
  const from = line * (sizes.places?.[2] ?? 0)
  for (let slot = 0; slot < room; slot++) {
    const place = placeBytes(dim) === 1 ? byteOf(places, from, slot) : twoBytesOf(places, from, slot)
    if (place < dim) output[place] = storedNumber(outliers, line * (sizes.outliers?.[2] ?? 0), slot)
  }
}

const byteOf = (words: Int32Array, from: number, at: number): number =>
  ((words[from + (at >> 2)] ?? 0) >>> (8 * (at & 3))) & 0xff
const twoBytesOf = (words: Int32Array, from: number, at: number): number =>
  byteOf(words, from, 2 * at) | (byteOf(words, from, 2 * at + 1) << 8)

/** Code at bit `bit` of the line of words that starts at `at`. */
function takeCode(words: Int32Array, at: number, bit: number, bits: number): number {
  const word = at + (bit >> 5)
  const offset = bit & 31
  const low = (words[word] ?? 0) >>> offset
  const high = offset + bits > 32 ? (words[word + 1] ?? 0) << (32 - offset) : 0
  return (low | high) & (2 ** bits - 1)
}

/** Decodes row `row` of a head: float32 [dim]. `heads` 1 is enough to work out the sizes. */
export function decodeCodebookRow(
  page: CodebookPage,
  layout: CodebookLayout,
  dim: number,
  head: number,
  row: number,
): Float32Array {
  const sizes: CodebookSizes = codebookShapes('codebookDecode', layout, 1, page.rows, dim)
  const { bits, span, units } = sizes
  const { vector, entries, hadamard } = layout
  const output = new Float32Array(dim)
  const factor = codebookFactor(layout)
  const words = sizes.codes[2] ?? 0
  const perSpan = Math.ceil(span / vector)
  for (let unit = 0; unit < units; unit++) {
    const group = Math.floor(unit / perSpan)
    const from = group * span + (unit % perSpan) * vector
    const scaled = Math.fround(scaleAt(page, layout, dim / span, head, row, group) * factor)
    const code = takeCode(page.codes, (head * page.rows + row) * words, unit * bits, bits)
    const entry = ((layout.tables === 'shared' ? 0 : (head * units + unit) * entries) + code) * vector
    const end = Math.min(vector, (group + 1) * span - from)
    for (let k = 0; k < end; k++) output[from + k] = scaled * (page.table[entry + k] ?? 0)
  }
  if (hadamard > 0) butterfly(output, hadamard)
  moveRow(output, page, layout, head, row)
  mapRow(output, page, layout, head, row)
  placeOutliers(output, page, sizes, layout.outliers ?? 0, head, row)
  return output
}
