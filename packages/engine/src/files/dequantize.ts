// Packed weights to f32. Each block is read as ggml's reference does (ggml-quants.c; MIT, the ggml authors) and every product
// is rounded to f32 where numpy's reference rounds, so that results equal the gguf package's bit for bit.
import { ModelFileError } from '../errors'
import { type FileFormat, fileFormats, formatLayout, isFileFormat } from './tensor-types'

const round = Math.fround

/** IEEE half to number, subnormals, infinities and NaN included. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const mantissa = bits & 0x3ff
  if (exponent === 0) return sign * mantissa * 2 ** -24
  if (exponent === 31) return mantissa ? NaN : sign * Infinity
  return sign * (1024 + mantissa) * 2 ** (exponent - 25)
}

type BlockDecoder = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void

const half = (bytes: Uint8Array, at: number) => halfToNumber((bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8))

/** q4_0: f16 scale, 16 bytes; value = scale · (nibble − 8); low nibbles are values 0–15, high nibbles 16–31. */
const q4_0: BlockDecoder = (bytes, at, out, to) => {
  const scale = half(bytes, at)
  for (let i = 0; i < 16; i++) {
    const byte = bytes[at + 2 + i] ?? 0
    out[to + i] = scale * ((byte & 15) - 8)
    out[to + 16 + i] = scale * ((byte >> 4) - 8)
  }
}

/** q4_1: f16 scale, f16 minimum, 16 bytes; value = scale · nibble + minimum. */
const q4_1: BlockDecoder = (bytes, at, out, to) => {
  const scale = half(bytes, at)
  const minimum = half(bytes, at + 2)
  for (let i = 0; i < 16; i++) {
    const byte = bytes[at + 4 + i] ?? 0
    out[to + i] = round(scale * (byte & 15)) + minimum
    out[to + 16 + i] = round(scale * (byte >> 4)) + minimum
  }
}

/** Fifth bits: bit i of the four bytes belongs to value i. */
const fifthBit = (bytes: Uint8Array, at: number, i: number) => (((bytes[at + (i >> 3)] ?? 0) >> (i & 7)) & 1) << 4

/** q5_0: f16 scale, 32 fifth bits, 16 bytes; value = scale · (code − 16). */
const q5_0: BlockDecoder = (bytes, at, out, to) => {
  const scale = half(bytes, at)
  for (let i = 0; i < 16; i++) {
    const byte = bytes[at + 6 + i] ?? 0
    out[to + i] = scale * (((byte & 15) | fifthBit(bytes, at + 2, i)) - 16)
    out[to + 16 + i] = scale * (((byte >> 4) | fifthBit(bytes, at + 2, 16 + i)) - 16)
  }
}

/** q5_1: f16 scale, f16 minimum, 32 fifth bits, 16 bytes; value = scale · code + minimum. */
const q5_1: BlockDecoder = (bytes, at, out, to) => {
  const scale = half(bytes, at)
  const minimum = half(bytes, at + 2)
  for (let i = 0; i < 16; i++) {
    const byte = bytes[at + 8 + i] ?? 0
    out[to + i] = round(scale * ((byte & 15) | fifthBit(bytes, at + 4, i))) + minimum
    out[to + 16 + i] = round(scale * ((byte >> 4) | fifthBit(bytes, at + 4, 16 + i))) + minimum
  }
}

/** q8_0: f16 scale, 32 signed bytes. */
const q8_0: BlockDecoder = (bytes, at, out, to) => {
  const scale = half(bytes, at)
  for (let i = 0; i < 32; i++) out[to + i] = scale * (((bytes[at + 2 + i] ?? 0) << 24) >> 24)
}

/** The j-th of eight 6-bit scale and minimum pairs packed in 12 bytes (q4_k, q5_k). */
function scaleAndMinimum(bytes: Uint8Array, at: number, j: number): [number, number] {
  const byte = (i: number) => bytes[at + i] ?? 0
  if (j < 4) return [byte(j) & 63, byte(j + 4) & 63]
  return [(byte(j + 4) & 15) | ((byte(j - 4) >> 6) << 4), (byte(j + 4) >> 4) | ((byte(j) >> 6) << 4)]
}

/** q4_k and q5_k: f16 scale, f16 minimum, 12 bytes of sub-scales, (32 bytes of fifth bits,) 128 bytes; eight groups of 32 values. */
const kQuant =
  (fifthBits: boolean): BlockDecoder =>
  (bytes, at, out, to) => {
    const scale = half(bytes, at)
    const minimum = half(bytes, at + 2)
    const high = at + 16
    const codes = at + (fifthBits ? 48 : 16)
    for (let group = 0; group < 8; group++) {
      const [subScale, subMinimum] = scaleAndMinimum(bytes, at + 4, group)
      const groupScale = round(scale * subScale)
      const groupMinimum = round(minimum * subMinimum)
      for (let i = 0; i < 32; i++) {
        const byte = bytes[codes + (group >> 1) * 32 + i] ?? 0
        const fifth = fifthBits ? (((bytes[high + i] ?? 0) >> group) & 1) << 4 : 0
        out[to + group * 32 + i] = round(groupScale * ((group & 1 ? byte >> 4 : byte & 15) | fifth)) - groupMinimum
      }
    }
  }

/** q6_k: 128 bytes of low nibbles, 64 bytes of high pairs, 16 signed sub-scales, f16 scale; sixteen groups of 16 values. */
const q6_k: BlockDecoder = (bytes, at, out, to) => {
  const scale = half(bytes, at + 208)
  for (let i = 0; i < 256; i++) {
    const part = i >> 7 // two parts of 128 values, each four runs of 32
    const run = (i >> 5) & 3
    const lane = i & 31
    const low = ((bytes[at + part * 64 + (run & 1) * 32 + lane] ?? 0) >> (run >> 1 ? 4 : 0)) & 15
    const high = ((bytes[at + 128 + part * 32 + lane] ?? 0) >> (run * 2)) & 3
    const subScale = ((bytes[at + 192 + (i >> 4)] ?? 0) << 24) >> 24
    out[to + i] = round(scale * subScale) * ((low | (high << 4)) - 32)
  }
}

const decoders: Record<Exclude<FileFormat, 'f32' | 'bf16'>, BlockDecoder> = {
  f16: (bytes, at, out, to) => {
    out[to] = half(bytes, at)
  },
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q4_k: /* @__PURE__ */ kQuant(false),
  q5_k: /* @__PURE__ */ kQuant(true),
  q6_k,
}

/**
 * Packed values as f32.
 * @param format how `data` is packed
 * @param data whole blocks, as they lie in the file
 * @param count how many values to give; all of them unless told
 * @returns a fresh array `[count]`
 * Throws `ModelFileError`: `UNSUPPORTED_TENSOR_TYPE`, or `BAD_SHAPE` when `data` is not whole blocks or has too few.
 */
export function dequantize(format: string, data: Uint8Array, count?: number): Float32Array {
  if (!isFileFormat(format)) {
    throw new ModelFileError('UNSUPPORTED_TENSOR_TYPE', {
      given: `tensor data of type ${format}`,
      allowed: fileFormats.join(', '),
      cure: 'Use a file of another quantization of this model.',
    })
  }
  const { blockSize, blockBytes } = formatLayout(format)
  const held = (data.byteLength / blockBytes) * blockSize
  const wanted = count ?? held
  if (data.byteLength % blockBytes !== 0 || wanted > held) {
    throw new ModelFileError('BAD_SHAPE', {
      given: `${data.byteLength} bytes of ${format} for ${wanted} values`,
      allowed: `whole blocks of ${blockBytes} bytes, each ${blockSize} values`,
      cure: 'The tensor shape and its data disagree; fetch the file again.',
    })
  }
  const blocks = Math.ceil(wanted / blockSize)
  const out = new Float32Array(blocks * blockSize)
  if (format === 'f32') new Uint8Array(out.buffer).set(data.subarray(0, blocks * 4))
  else if (format === 'bf16') expandBf16(data, out)
  else {
    const decode = decoders[format]
    for (let block = 0; block < blocks; block++) decode(data, block * blockBytes, out, block * blockSize)
  }
  return wanted === out.length ? out : out.slice(0, wanted)
}

/** bf16 is the upper half of an f32. */
function expandBf16(data: Uint8Array, out: Float32Array): void {
  const words = new Uint32Array(out.buffer)
  for (let i = 0; i < words.length; i++) words[i] = ((data[2 * i] ?? 0) << 16) | ((data[2 * i + 1] ?? 0) << 24)
}
