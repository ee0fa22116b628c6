/**
 * Block formats: every 32 channels of a row share one half-precision scale d (and, in q4_1 and q5_1, a minimum), and each
 * number becomes a code of 4, 5 or 8 bits. This is how llama.cpp stores key-value caches with `-ctk q8_0` and the like:
 * keys after RoPE and values, every row at once, no exact window.
 *
 *   q8_0        d = max |x| / 127                      code = round(x / d), halves away from zero     x' = d · code
 *   q4_0, q5_0  d = m / -half, m the x of largest |x|  code = min(trunc(x / d + half + 0.5), 2 half - 1)  x' = d · (code - half)
 *   q4_1, q5_1  d = (max - min) / top                  code = min(trunc((x - min) / d + 0.5), top)    x' = d · code + min
 *
 * ggml (https://github.com/ggml-org/llama.cpp, MIT), `quantize_row_*_ref`; half = 8 or 16, top = 15 or 31. Every step is one
 * f32 operation, so codes and scales agree bit for bit. What differs: codes lie as a stream of bits, not in ggml's nibble order.
 */
import { defineQuantizer, evenWindows, ModelMismatch, type OptionsOf, type Quantizer, type Site } from '@kvloom/core'
import {
  allocateRows,
  type CodebookLayout,
  codebookDecode,
  codebookEncode,
  LARGEST_HALF,
  readRows,
  writeRows,
} from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { blockFormatsOptions } from './options'

type Format = OptionsOf<typeof blockFormatsOptions>['format']

/** Channels of a block. */
const BLOCK = 32

interface Recipe {
  readonly bits: number
  /** The whole number that each code stands for. One array, so that all layers share one table. */
  readonly numbers: Float32Array
  /** Halves kept for each block: scale, or scale and minimum. */
  readonly halves: 1 | 2
  /** Largest magnitude whose scale and minimum fit f16. */
  readonly largest: number
  /** Blocks `[n, 32]` to whole numbers, scale and minimum `[n, 1]`. */
  encode(x: tf.Tensor): { readonly numbers: tf.Tensor; readonly scale: tf.Tensor; readonly minimum?: tf.Tensor }
}

const wholeNumbers = (bits: number, lowest: number): Float32Array =>
  Float32Array.from({ length: 2 ** bits }, (_, code) => lowest + code)

const RECIPES: Readonly<Record<Format, Recipe>> = {
  q8_0: {
    bits: 8,
    numbers: wholeNumbers(8, -128),
    halves: 1,
    largest: LARGEST_HALF,
    encode(x) {
      const scale = tf.div(tf.max(tf.abs(x), 1, true), 127)
      const v = tf.mul(x, inverse(scale))
      // Half away from zero without adding 0.5, which f32 rounds up just below a half.
      const whole = tf.floor(tf.abs(v))
      const numbers = tf.mul(tf.sign(v), tf.add(whole, tf.floor(tf.mul(2, tf.sub(tf.abs(v), whole)))))
      return { numbers, scale }
    },
  },
  q5_0: symmetric(5),
  q4_0: symmetric(4),
  q5_1: asymmetric(5),
  q4_1: asymmetric(4),
}

function symmetric(bits: number): Recipe {
  const half = 2 ** (bits - 1)
  return {
    bits,
    numbers: wholeNumbers(bits, -half),
    halves: 1,
    largest: LARGEST_HALF,
    encode(x) {
      const scale = tf.div(largestSigned(x), -half)
      const codes = tf.minimum(tf.floor(tf.add(tf.mul(x, inverse(scale)), half + 0.5)), 2 * half - 1)
      return { numbers: tf.sub(codes, half), scale }
    },
  }
}

function asymmetric(bits: number): Recipe {
  const top = 2 ** bits - 1
  return {
    bits,
    numbers: wholeNumbers(bits, 0),
    halves: 2,
    largest: LARGEST_HALF / 2,
    encode(x) {
      const minimum = tf.min(x, 1, true)
      const scale = tf.div(tf.sub(tf.max(x, 1, true), minimum), top)
      const numbers = tf.minimum(tf.floor(tf.add(tf.mul(tf.sub(x, minimum), inverse(scale)), 0.5)), top)
      return { numbers, scale, minimum }
    },
  }
}

/** 1 / d, and 0 for 0. */
const inverse = (d: tf.Tensor): tf.Tensor => {
  const zero = tf.equal(d, 0)
  return tf.where(zero, tf.zerosLike(d), tf.div(1, tf.where(zero, tf.onesLike(d), d)))
}

/** The number of largest magnitude with its sign, the first one when two have it. */
function largestSigned(x: tf.Tensor): tf.Tensor {
  const [high, low] = [tf.max(x, 1, true), tf.min(x, 1, true)]
  const first = tf.expandDims(tf.less(tf.argMax(x, 1), tf.argMin(x, 1)), 1)
  const [above, below] = [tf.greater(high, tf.neg(low)), tf.less(high, tf.neg(low))]
  return tf.where(tf.logicalOr(above, tf.logicalAnd(tf.logicalNot(below), first)), high, low)
}

/** Keys after RoPE and values in ggml's block formats; no row stays exact. */
export const blockFormats = defineQuantizer({
  name: 'block-formats',
  title: 'Block formats',
  summary:
    'Blocks of 32 channels with one half-precision scale, as llama.cpp stores its cache: q8_0, q4_0 and their kin.',
  paper: { title: 'ggml quantization formats', link: 'https://github.com/ggml-org/llama.cpp' },
  options: blockFormatsOptions,
  window: () => evenWindows({ block: 1 }),
  rope: 'post',
  channels: () => ({ multipleOf: BLOCK, of: 'head' }),
  quantizer: ({ format }, site) => quantizerOf(RECIPES[format], site),
})

function quantizerOf(recipe: Recipe, site: Site): Quantizer<{ codes: tf.Tensor; metadata: tf.Tensor }> {
  const { bits, numbers: table, halves, largest } = recipe
  if (site.dim % BLOCK !== 0)
    throw new ModelMismatch(
      'block-formats',
      `${site.part} have ${site.dim} channels, which blocks of ${BLOCK} do not divide.`,
      {
        kind: 'replace',
        method: 'block-formats',
        what: 'a quantizer with a group size of its own',
        methods: ['kivi', 'higgs'],
      },
    )
  const blocks = site.dim / BLOCK
  const entries = 2 ** bits
  const layout: CodebookLayout = {
    kind: 'codebook',
    vector: 1,
    entries,
    tables: 'shared',
    scale: 'none',
    group: BLOCK,
    hadamard: 0,
  }
  // Codes are packed by the codebook kernel: its table is the whole numbers themselves.
  const held = site.hold({ shape: [entries, 1], values: table })
  return {
    layout: { kind: 'custom', fields: { codes: { counts: 'payload' }, metadata: { counts: 'metadata' } } },
    rowsPerGroup: 1,
    largest,
    theoreticalBitsPerValue: bits + (16 * halves) / BLOCK,
    encode(rows) {
      const [heads = 0, n = 0] = rows.shape
      const half = (x: tf.Tensor): tf.Tensor => tf.reshape(x, [heads, n, blocks])
      const [numbers, scales] = tf.tidy(() => {
        const found = recipe.encode(tf.reshape(rows, [heads * n * blocks, BLOCK]))
        const kept = found.minimum ? tf.concat([half(found.scale), half(found.minimum)], 2) : half(found.scale)
        return [tf.reshape(found.numbers, rows.shape), kept] as const
      })
      const metadata = allocateRows('f16', heads, n, halves * blocks)
      writeRows(metadata, 'f16', 0, scales)
      const { codes } = codebookEncode(numbers, layout, held)
      tf.dispose([numbers, scales])
      return { codes, metadata }
    },
    decode({ codes, metadata }, rows) {
      const heads = codes.shape[0] ?? 0
      return tf.tidy(() => {
        const numbers = codebookDecode({ codes }, layout, held, { heads, rows, dim: site.dim })
        const kept = readRows(metadata, 'f16', halves * blocks, 0, rows)
        // [heads, rows, blocks, 32] times [heads, rows, blocks, 1]
        const spread = (from: number): tf.Tensor =>
          tf.reshape(tf.slice(kept, [0, 0, from], [heads, rows, blocks]), [heads, rows, blocks, 1])
        const scaled = tf.mul(tf.reshape(numbers, [heads, rows, blocks, BLOCK]), spread(0))
        return tf.reshape(halves === 2 ? tf.add(scaled, spread(blocks)) : scaled, [heads, rows, site.dim])
      })
    },
  }
}
