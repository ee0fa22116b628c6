// Codebook codes, reference form. Scale 'group' (HIGGS): s = |x| of the group, z = H x / s with H unnormalised per Hadamard block and
// rescaled to a mean square of 1; code = argmin |G|^2 - 2 <z, G>. Scale 'none' (Coupled Quantization): code = argmin sum (z - C)^2.
// The lowest index wins ties. Every step is one f32 operation in the order written here, sums along channels; norms are summed in double.
import type { TensorInfo } from '@tensorflow/tfjs-core'
import { butterfly } from '../hadamard/reference'
import { cpuKernel } from '../kernel'
import { halfFromFloat } from '../rows/half'
import { decodeCodebookRow } from './decode'
import { type CodebookLayout, codebookShapes } from './layout'

export const codebookEncodeName = 'KvloomCodebookEncode'
export const codebookDecodeName = 'KvloomCodebookDecode'

export type CodebookEncode = { layout: CodebookLayout }
export type CodebookDecode = {
  layout: CodebookLayout
  heads: number
  rows: number
  dim: number
  from: number
  count: number
}

/** f32 factor of H x before the division by the norm: sqrt(group / block), or 1 / sqrt(block) without scales. */
export function encodeFactor({ scale, group, hadamard }: CodebookLayout): number {
  return Math.fround(Math.sqrt((scale === 'group' ? group : 1) / Math.max(1, hadamard)))
}

/** Euclidean norm, rounded to f32. */
function normOf(values: Float32Array): number {
  return Math.fround(Math.sqrt(values.reduce((sum, value) => sum + value * value, 0)))
}

/** The row in the units of the table: [dim], and the norm of each group. */
function normalized(row: Float32Array, layout: CodebookLayout, span: number): { z: Float32Array; norms: number[] } {
  const z = row.slice()
  if (layout.hadamard > 0) butterfly(z, layout.hadamard)
  const factor = encodeFactor(layout)
  const norms = Array.from({ length: row.length / span }, (_, group) =>
    layout.scale === 'none' ? 1 : normOf(row.subarray(group * span, (group + 1) * span)),
  )
  z.forEach((value, i) => {
    const norm = norms[Math.floor(i / span)] ?? 0
    z[i] = norm === 0 ? 0 : Math.fround(Math.fround(value * factor) / norm)
  })
  return { z, norms }
}

/** Index of the entry nearest to `z`; the first of equals. */
function nearest(
  z: ArrayLike<number>,
  table: Float32Array,
  at: number,
  { entries, vector, scale }: CodebookLayout,
): number {
  let [best, found] = [Infinity, 0]
  for (let entry = 0; entry < entries; entry++) {
    let [sum, squares] = [0, 0]
    for (let k = 0; k < vector; k++) {
      const [x, t] = [z[k] ?? 0, table[at + entry * vector + k] ?? 0]
      const difference = Math.fround(x - t)
      sum = Math.fround(sum + (scale === 'group' ? Math.fround(x * t) : Math.fround(difference * difference)))
      squares = Math.fround(squares + Math.fround(t * t))
    }
    const distance = scale === 'group' ? Math.fround(squares - 2 * sum) : sum
    if (distance < best) [best, found] = [distance, entry]
  }
  return found
}

export const codebookEncodeReference = cpuKernel<{ rows: TensorInfo; table: TensorInfo }, CodebookEncode>(
  codebookEncodeName,
  ({ rows, table }, { layout }, storage) => {
    const [heads = 0, n = 0, dim = 0] = rows.shape
    const { bits, span, units, ...shapes } = codebookShapes('codebookEncode', layout, heads, n, dim)
    const codes = storage.makeOutput(shapes.codes, 'int32')
    const metadata = shapes.metadata
      ? storage.makeOutput(shapes.metadata, layout.metadata === 'f32' ? 'float32' : 'int32')
      : undefined
    const [source, entries, words] = [storage.float32(rows), storage.float32(table), storage.int32(codes)]
    const lineWords = shapes.codes[2] ?? 0
    const perSpan = Math.ceil(span / layout.vector)
    for (let line = 0; line < heads * n; line++) {
      const { z, norms } = normalized(source.slice(line * dim, (line + 1) * dim), layout, span)
      for (let unit = 0; unit < units; unit++) {
        const group = Math.floor(unit / perSpan)
        const from = group * span + (unit % perSpan) * layout.vector
        const at =
          layout.tables === 'shared' ? 0 : (Math.floor(line / n) * units + unit) * layout.entries * layout.vector
        const code = nearest(z.subarray(from, Math.min(from + layout.vector, (group + 1) * span)), entries, at, layout)
        const word = line * lineWords + ((unit * bits) >> 5)
        const offset = (unit * bits) & 31
        words[word] = (words[word] ?? 0) | (code << offset)
        if (offset + bits > 32) words[word + 1] = (words[word + 1] ?? 0) | (code >>> (32 - offset))
      }
      if (!metadata) continue
      if (layout.metadata === 'f32') storage.float32(metadata).set(norms, line * norms.length)
      else {
        const halves = storage.int32(metadata)
        const [head, row] = [Math.floor(line / n), line % n]
        norms.forEach((norm, group) => {
          const word = (head * Math.ceil(n / 2) + (row >> 1)) * norms.length + group
          halves[word] = (halves[word] ?? 0) | (halfFromFloat(norm) << (16 * (row & 1)))
        })
      }
    }
    return metadata ? [codes, metadata] : [codes]
  },
)

export const codebookDecodeReference = cpuKernel<Record<string, TensorInfo>, CodebookDecode>(
  codebookDecodeName,
  ({ codes, metadata, table }, { layout, heads, rows, dim, from, count }, storage) => {
    const output = storage.makeOutput([heads, count, dim], 'float32')
    const page = {
      codes: storage.int32(codes as TensorInfo),
      metadata: metadata && (metadata.dtype === 'int32' ? storage.int32(metadata) : storage.float32(metadata)),
      table: storage.float32(table as TensorInfo),
      rows,
    }
    for (let head = 0; head < heads; head++) {
      for (let row = 0; row < count; row++)
        storage.float32(output).set(decodeCodebookRow(page, layout, dim, head, from + row), (head * count + row) * dim)
    }
    return output
  },
)
