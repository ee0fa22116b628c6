/** Cases made by the `gguf` package: rows in ggml's block formats, bytes and reconstruction bit for bit. */

import { type Quantizer, stagesOn } from '@kvloom/core'
import {
  type CaseAdapter,
  compareNamed,
  compareScalar,
  fromTensor,
  type GoldenCase,
  GoldenError,
  makeWith,
  type NdArray,
  numberOption,
  type Outcome,
  oneHead,
  relativeSquareError,
  siteIn,
  textOption,
  toTensor,
  withArena,
  wrong,
} from '@kvloom/golden'
import type { Tensor } from '@tensorflow/tfjs-core'
import { blockFormats } from '../src/block-formats'

const BLOCK = 32
/** Codes of a block as ggml lays them out; q5 has its fifth bits in a word of their own. */
const FORMATS: Readonly<Record<string, { readonly bits: 4 | 5 | 8; readonly halves: 1 | 2 }>> = {
  q4_0: { bits: 4, halves: 1 },
  q4_1: { bits: 4, halves: 2 },
  q5_0: { bits: 5, halves: 1 },
  q5_1: { bits: 5, halves: 2 },
  q8_0: { bits: 8, halves: 1 },
}

/** f32 sums of squares. */
const ERROR_TOLERANCE = 1e-5

/** Block formats against the bytes of the `gguf` package. */
export const adapter: CaseAdapter = { method: 'ggml-blocks', run }

async function run(golden: GoldenCase): Promise<Outcome | null> {
  const type = textOption(golden, 'type', '')
  const format = FORMATS[type]
  if (!format || !golden.has('x')) return null
  const x = await golden.input('x')
  const [rows = 0, channels = 0] = x.shape
  const [stage] = stagesOn(makeWith(blockFormats, { format: type }), 'quantize', 0, 'values')
  if (!stage) throw new GoldenError('block-formats has no stage for values.')
  const blockBytes = 2 * format.halves + (BLOCK * format.bits) / 8
  if (numberOption(golden, 'blockBytes', blockBytes) !== blockBytes)
    throw new GoldenError(`Case ${golden.name}: a block of ${type} has ${blockBytes} bytes.`)
  return withArena(async (arena) => {
    const quantizer: Quantizer = stage.bind(siteIn(arena, oneHead(channels), 0, 'values'))
    const { words, metadata, ...rest } = quantizer.encode(arena.own(toTensor({ ...x, shape: [1, rows, channels] })))
    if (!words || !metadata || Object.keys(rest).length > 0)
      throw new GoldenError('block-formats no longer stores words and metadata.')
    const block = { words: arena.own(words), metadata: arena.own(metadata) }
    const decoded = await fromTensor(arena.own(quantizer.decode(block, rows)))
    const recon: NdArray = { shape: x.shape, data: decoded.data }
    const bytes = await ggmlBytes(block, format, rows, channels)
    const tensors = await compareNamed(golden, { bytes, recon })
    if ('relMSE' in golden.scalars)
      tensors.push(compareScalar(golden, 'relMSE', relativeSquareError(x, recon), ERROR_TOLERANCE))
    if ('bitsPerValue' in golden.scalars)
      tensors.push(compareScalar(golden, 'bitsPerValue', quantizer.theoreticalBitsPerValue, 0))
    for (const name of Object.keys(golden.scalars))
      if (name !== 'relMSE' && name !== 'bitsPerValue') tensors.push(wrong(name, 'no result for this name'))
    return { tensors }
  })
}

/** The bytes ggml would hold, from what the package stores, read by its documented layout. */
async function ggmlBytes(
  { words, metadata }: { readonly words: Tensor; readonly metadata: Tensor },
  { bits, halves }: { readonly bits: 4 | 5 | 8; readonly halves: 1 | 2 },
  rows: number,
  channels: number,
): Promise<NdArray> {
  const [codes, kept] = [await fromTensor(words), await fromTensor(metadata)]
  const blocks = channels / BLOCK
  const [codeWords, halfWords] = [codes.shape[2] ?? 0, kept.shape[2] ?? 0]
  const codeAt = (row: number, channel: number): number => {
    let code = 0
    for (let bit = 0; bit < bits; bit++) {
      const at = channel * bits + bit
      code |= (((codes.data[row * codeWords + (at >> 5)] ?? 0) >>> (at & 31)) & 1) << bit
    }
    return code
  }
  const halfAt = (row: number, i: number): number =>
    ((kept.data[row * halfWords + (i >> 1)] ?? 0) >>> (16 * (i & 1))) & 0xffff
  const bytes: number[] = []
  for (let row = 0; row < rows; row++)
    for (let block = 0; block < blocks; block++) {
      for (let half = 0; half < halves; half++) {
        const value = halfAt(row, block * halves + half)
        bytes.push(value & 0xff, value >>> 8)
      }
      const code = Array.from({ length: BLOCK }, (_, j) => codeAt(row, block * BLOCK + j))
      if (bits === 8) bytes.push(...code.map((c) => (c - 128) & 0xff))
      else {
        for (let byte = 0; byte < (bits === 5 ? 4 : 0); byte++)
          bytes.push(code.slice(8 * byte, 8 * byte + 8).reduce((sum, c, i) => sum | (((c >> 4) & 1) << i), 0))
        for (let j = 0; j < BLOCK / 2; j++) bytes.push(((code[j] ?? 0) & 15) | (((code[j + BLOCK / 2] ?? 0) & 15) << 4))
      }
    }
  return { shape: [rows, bytes.length / Math.max(1, rows)], data: Uint8Array.from(bytes) }
}
