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
import { type AffineLayout, affineDecode, blockEncode, LARGEST_HALF } from '@kvloom/kernels'
import type { Tensor } from '@tensorflow/tfjs-core'
import { blockFormatsOptions } from './options'

type Format = OptionsOf<typeof blockFormatsOptions>['format']

/** Channels of a block. */
const BLOCK = 32

/** Bits of a code, and whether a block has a scale alone or a minimum too. */
const RECIPES: Readonly<Record<Format, { readonly bits: number; readonly symmetric: boolean }>> = {
  q8_0: { bits: 8, symmetric: true },
  q5_0: { bits: 5, symmetric: true },
  q4_0: { bits: 4, symmetric: true },
  q5_1: { bits: 5, symmetric: false },
  q4_1: { bits: 4, symmetric: false },
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
  quantizer: ({ format }, site) => quantizerOf(format, site),
})

function quantizerOf(format: Format, { part, dim }: Site): Quantizer<{ words: Tensor; metadata: Tensor }> {
  const { bits, symmetric } = RECIPES[format]
  if (dim % BLOCK !== 0)
    throw new ModelMismatch('block-formats', `${part} have ${dim} channels, which blocks of ${BLOCK} do not divide.`, {
      kind: 'replace',
      method: 'block-formats',
      what: 'a quantizer with a group size of its own',
      methods: ['kivi', 'higgs'],
    })
  const layout: AffineLayout = { kind: 'affine', bits, group: BLOCK, along: 'channels', metadata: 'f16', symmetric }
  return {
    layout,
    rowsPerGroup: 1,
    // Scale and minimum fit f16.
    largest: symmetric ? LARGEST_HALF : LARGEST_HALF / 2,
    theoreticalBitsPerValue: bits + (symmetric ? 16 : 32) / BLOCK,
    encode: (rows) => blockEncode(rows, layout),
    decode: (block, rows) => affineDecode(block, layout, { heads: block.words.shape[0] ?? 0, rows, dim }),
  }
}
