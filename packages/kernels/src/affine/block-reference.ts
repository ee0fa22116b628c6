// Block formats as ggml quantizes them, reference form: see `blockEncode`.
import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel } from '../kernel'
import { affineShapes } from '../layouts'
import { halfFromFloat } from '../rows/half'
import { type AffineEncode, putCode } from './reference'

export const blockEncodeName = 'KvloomBlockEncode'

interface Block {
  readonly scale: number
  readonly minimum: number
  readonly codes: readonly number[]
}

/** A number between two bounds; NaN is the lower one. */
const within = (x: number, low: number, high: number): number => (x > low ? Math.min(x, high) : low)

const inverseOf = (scale: number): number => (scale === 0 ? 0 : Math.fround(1 / scale))

/** The number of largest magnitude with its sign, the first one of two. */
const largestSigned = (x: readonly number[]): number => x.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a))

function symmetricBlock(x: readonly number[], bits: number): Block {
  const half = 2 ** (bits - 1)
  const largest = largestSigned(x)
  const scale = Math.fround(bits === 8 ? Math.abs(largest) / (half - 1) : largest / -half)
  const inverse = inverseOf(scale)
  const codes = x.map((value) => {
    const quotient = Math.fround(value * inverse)
    if (bits < 8) return within(Math.floor(Math.fround(quotient + (half + 0.5))), 0, 2 * half - 1)
    // Adding 0.5 in f32 would round up what lies just below a half.
    const whole = Math.sign(quotient) * Math.floor(Math.abs(quotient) + 0.5)
    return within(whole, -half, half - 1) + half
  })
  return { scale, minimum: 0, codes }
}

function blockWithMinimum(x: readonly number[], bits: number): Block {
  const top = 2 ** bits - 1
  const minimum = Math.min(...x)
  const scale = Math.fround(Math.fround(Math.max(...x) - minimum) / top)
  const inverse = inverseOf(scale)
  const codes = x.map((value) => {
    const quotient = Math.fround(Math.fround(value - minimum) * inverse)
    return within(Math.floor(Math.fround(quotient + 0.5)), 0, top)
  })
  return { scale, minimum, codes }
}

export const blockEncodeReference = cpuKernel<{ rows: TensorInfo }, AffineEncode>(
  blockEncodeName,
  ({ rows }, { layout }, storage) => {
    const { bits, group, symmetric = false } = layout
    const [heads = 0, n = 0, dim = 0] = rows.shape
    const shapes = affineShapes('blockEncode', layout, heads, n, dim)
    const words = storage.makeOutput(shapes.words, 'int32')
    const metadata = storage.makeOutput(shapes.metadata, 'int32')
    const [values, kept] = [storage.float32(rows), storage.int32(metadata)]
    const [lineWords, lineKept] = [shapes.words[2] ?? 0, shapes.metadata[2] ?? 0]
    for (let line = 0; line < heads * n; line++)
      for (let number = 0; number < dim / group; number++) {
        const from = line * dim + number * group
        const x = Array.from(values.subarray(from, from + group))
        const { scale, minimum, codes } = symmetric ? symmetricBlock(x, bits) : blockWithMinimum(x, bits)
        const at = line * lineKept + (symmetric ? number >> 1 : number)
        if (!symmetric) kept[at] = halfFromFloat(scale) | (halfFromFloat(minimum) << 16)
        else kept[at] = (kept[at] ?? 0) | (halfFromFloat(scale) << (16 * (number % 2)))
        codes.forEach((code, i) => {
          putCode(storage.int32(words), line * lineWords, (number * group + i) * bits, bits, code)
        })
      }
    return [words, metadata]
  },
)
