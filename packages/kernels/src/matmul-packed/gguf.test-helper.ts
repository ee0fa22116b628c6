// An independent decoder of GGUF blocks (after the layout in ggml's ggml-common.h, ggml-org/llama.cpp, MIT), and random blocks for tests.
import { randomValues } from '../testing'
import { formatFacts, type WeightFormat } from './formats'

/** Random rows: random codes, scales such that weights are about 0.05 to 0.5. */
export function randomBlocks(format: WeightFormat, outFeatures: number, inFeatures: number, seed: number): Uint8Array {
  const { blockColumns, blockBytes } = formatFacts(format)
  const blocks = (outFeatures * inFeatures) / blockColumns
  if (format === 'f32') return new Uint8Array(randomValues(blocks, seed).buffer)
  const bytes = Uint8Array.from(randomValues(blocks * blockBytes, seed), (value) => Math.floor((value + 1) * 128))
  const view = new DataView(bytes.buffer)
  const numbers = randomValues(blocks * 2, seed + 1)
  // Halves 0x2800 = 2^-5 … ; the low bits vary the mantissa, the sign bit the sign.
  const scale = (i: number, exponent: number): number =>
    (exponent << 10) | Math.floor(((numbers[i] ?? 0) + 1) * 512) | ((numbers[i] ?? 0) < 0 ? 0x8000 : 0)
  for (let i = 0; i < blocks; i++) {
    const at = i * blockBytes
    if (format === 'f16') view.setUint16(at, i % 50 === 7 ? 3 : scale(i, 13), true)
    if (format === 'q4_0') view.setUint16(at, scale(i, 9), true)
    if (format === 'q4_1') view.setUint32(at, scale(i, 9) | (scale(blocks + i, 12) << 16), true)
    if (format === 'q8_0') view.setUint16(at, scale(i, 5), true)
    if (format === 'q6_k') view.setUint16(at + 208, scale(i, 1), true)
  }
  return bytes
}

/** One row of raw blocks as numbers. */
export function ggufRow(format: WeightFormat, bytes: Uint8Array, inFeatures: number): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const { blockColumns, blockBytes } = formatFacts(format)
  return Float32Array.from({ length: inFeatures }, (_, column) => {
    const at = Math.floor(column / blockColumns) * blockBytes
    const k = column % blockColumns
    const nibbleOf = (from: number): number =>
      k < 16 ? view.getUint8(from + k) & 15 : view.getUint8(from + k - 16) >> 4
    switch (format) {
      case 'f32':
        return view.getFloat32(at, true)
      case 'f16':
        return half(view, at)
      case 'q4_0':
        return half(view, at) * (nibbleOf(at + 2) - 8)
      case 'q4_1':
        return half(view, at) * nibbleOf(at + 4) + half(view, at + 2)
      case 'q8_0':
        return half(view, at) * view.getInt8(at + 2 + k)
      case 'q6_k':
        return half(view, at + 208) * view.getInt8(at + 192 + Math.floor(k / 16)) * (q6(view, at, k) - 32)
    }
  })
}

function q6(view: DataView, at: number, k: number): number {
  const n = Math.floor(k / 128)
  const l = k % 32
  const quarter = Math.floor((k % 128) / 32)
  const [ql, qh] = [at + n * 64, at + 128 + n * 32]
  const high = view.getUint8(qh + l)
  if (quarter === 0) return (view.getUint8(ql + l) & 15) | ((high & 3) << 4)
  if (quarter === 1) return (view.getUint8(ql + l + 32) & 15) | (((high >> 2) & 3) << 4)
  if (quarter === 2) return (view.getUint8(ql + l) >> 4) | (((high >> 4) & 3) << 4)
  return (view.getUint8(ql + l + 32) >> 4) | (((high >> 6) & 3) << 4)
}

function half(view: DataView, at: number): number {
  const bits = view.getUint16(at, true)
  const sign = bits >> 15 ? -1 : 1
  const exponent = (bits >> 10) & 31
  return exponent === 0 ? sign * (bits & 1023) * 2 ** -24 : sign * (1 + (bits & 1023) / 1024) * 2 ** (exponent - 15)
}
