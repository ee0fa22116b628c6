// Affine codes, reference form. Per group (KIVI's rule): min = min x; scale = (max x - min) / (2^bits - 1);
// code = roundHalfEven(clamp((x - min) / scale, 0, 2^bits - 1)); every step one f32 operation, a real division.
import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel } from '../kernel'
import { type AffineLayout, affineShapes } from '../layouts'
import { floatFromHalf, halfFromFloat, roundHalfEven } from '../rows/half'

export const affineEncodeName = 'KvloomAffineEncode'
export const affineDecodeName = 'KvloomAffineDecode'
export const affineOverflowName = 'KvloomAffineOverflow'

export type AffineEncode = { layout: AffineLayout }
export type AffineDecode = {
  layout: AffineLayout
  heads: number
  rows: number
  dim: number
  from: number
  count: number
}

/** Scale and minimum of one group, as stored. */
interface GroupMetadata {
  readonly scale: number
  readonly minimum: number
}

function groupMetadata(values: readonly number[], layout: AffineLayout): GroupMetadata {
  const minimum = Math.min(...values)
  const scale = Math.fround(Math.fround(Math.max(...values) - minimum) / (2 ** layout.bits - 1))
  return layout.metadata === 'f32'
    ? { scale, minimum }
    : { scale: floatFromHalf(halfFromFloat(scale)), minimum: floatFromHalf(halfFromFloat(minimum)) }
}

function codeOf(value: number, { scale, minimum }: GroupMetadata, bits: number): number {
  if (scale === 0) return 0
  const quotient = Math.fround(Math.fround(value - minimum) / scale)
  // NaN (a scale beyond the metadata's range) becomes code 0.
  return roundHalfEven(Math.min(Math.max(quotient || 0, 0), 2 ** bits - 1))
}

/** Puts a code at bit `bit` of the line of words that starts at `at`. */
export function putCode(words: Int32Array, at: number, bit: number, bits: number, code: number): void {
  const word = at + (bit >> 5)
  const offset = bit & 31
  words[word] = (words[word] ?? 0) | (code << offset)
  if (offset + bits > 32) words[word + 1] = (words[word + 1] ?? 0) | (code >>> (32 - offset))
}

function takeCode(words: Int32Array, at: number, bit: number, bits: number): number {
  const word = at + (bit >> 5)
  const offset = bit & 31
  const low = (words[word] ?? 0) >>> offset
  const high = offset + bits > 32 ? (words[word + 1] ?? 0) << (32 - offset) : 0
  return (low | high) & (2 ** bits - 1)
}

export const affineEncodeReference = cpuKernel<{ rows: TensorInfo }, AffineEncode>(
  affineEncodeName,
  ({ rows }, { layout }, storage) => {
    const [heads = 0, n = 0, dim = 0] = rows.shape
    const shapes = affineShapes('affineEncode', layout, heads, n, dim)
    const words = storage.makeOutput(shapes.words, 'int32')
    const metadata = storage.makeOutput(shapes.metadata, layout.metadata === 'f32' ? 'float32' : 'int32')
    const [source, wordValues] = [storage.float32(rows), storage.int32(words)]
    const [lines, elements] = layout.along === 'tokens' ? [dim, n] : [n, dim]
    const lineWords = shapes.words[2] ?? 0
    const at = (head: number, line: number, element: number) =>
      layout.along === 'tokens' ? (head * n + element) * dim + line : (head * n + line) * dim + element
    for (let line = 0; line < heads * lines; line++) {
      for (let start = 0; start < elements; start += layout.group) {
        const values = Array.from(
          { length: layout.group },
          (_, i) => source[at(Math.floor(line / lines), line % lines, start + i)] ?? 0,
        )
        const stored = groupMetadata(values, layout)
        const group = (line * elements + start) / layout.group
        if (layout.metadata === 'f32') storage.float32(metadata).set([stored.scale, stored.minimum], group * 2)
        else storage.int32(metadata)[group] = halfFromFloat(stored.scale) | (halfFromFloat(stored.minimum) << 16)
        values.forEach((value, i) => {
          putCode(
            wordValues,
            line * lineWords,
            (start + i) * layout.bits,
            layout.bits,
            codeOf(value, stored, layout.bits),
          )
        })
      }
    }
    return [words, metadata]
  },
)

/** Scale and minimum of group `number` of a line of `groups` groups. */
function readMetadata(
  metadata: Float32Array | Int32Array,
  layout: AffineLayout,
  line: number,
  number: number,
  groups: number,
): GroupMetadata {
  if (layout.symmetric) {
    const word = metadata[line * Math.ceil(groups / 2) + (number >> 1)] ?? 0
    const scale =
      layout.metadata === 'f32'
        ? (metadata[line * groups + number] ?? 0)
        : floatFromHalf(number % 2 === 0 ? word & 0xffff : word >>> 16)
    return { scale, minimum: Math.fround(scale * -(2 ** (layout.bits - 1))) }
  }
  const group = line * groups + number
  if (layout.metadata === 'f32') return { scale: metadata[group * 2] ?? 0, minimum: metadata[group * 2 + 1] ?? 0 }
  const word = metadata[group] ?? 0
  return { scale: floatFromHalf(word & 0xffff), minimum: floatFromHalf(word >>> 16) }
}

/** code * scale + minimum of one element; `rows` rows were encoded. */
export function decodeElement(
  words: Int32Array,
  metadata: Float32Array | Int32Array,
  layout: AffineLayout,
  rows: number,
  dim: number,
  head: number,
  row: number,
  channel: number,
): number {
  const [lines, elements, line, element] =
    layout.along === 'tokens' ? [dim, rows, channel, row] : [rows, dim, row, channel]
  const number = head * lines + line
  const { scale, minimum } = readMetadata(
    metadata,
    layout,
    number,
    Math.floor(element / layout.group),
    elements / layout.group,
  )
  const code = takeCode(words, number * Math.ceil((elements * layout.bits) / 32), element * layout.bits, layout.bits)
  return Math.fround(Math.fround(code * scale) + minimum)
}

export const affineDecodeReference = cpuKernel<{ words: TensorInfo; metadata: TensorInfo }, AffineDecode>(
  affineDecodeName,
  ({ words, metadata }, { layout, heads, rows, dim, from, count }, storage) => {
    const output = storage.makeOutput([heads, count, dim], 'float32')
    const values = storage.float32(output)
    const stored = layout.metadata === 'f32' ? storage.float32(metadata) : storage.int32(metadata)
    for (let head = 0; head < heads; head++) {
      for (let row = 0; row < count; row++) {
        for (let channel = 0; channel < dim; channel++) {
          values[(head * count + row) * dim + channel] = decodeElement(
            storage.int32(words),
            stored,
            layout,
            rows,
            dim,
            head,
            from + row,
            channel,
          )
        }
      }
    }
    return output
  },
)

export const affineOverflowReference = cpuKernel<{ metadata: TensorInfo }, Record<string, never>>(
  affineOverflowName,
  ({ metadata }, _, storage) => {
    const output = storage.makeOutput([1], 'int32')
    const values =
      metadata.dtype === 'int32'
        ? [...storage.int32(metadata)].flatMap((word) => [floatFromHalf(word & 0xffff), floatFromHalf(word >>> 16)])
        : [...storage.float32(metadata)]
    storage.int32(output)[0] = values.every(Number.isFinite) ? 0 : 1
    return output
  },
)
