// Decodes rows of packed panels in plain TypeScript: the meaning of the layouts in formats.ts.
import type { WeightFormat } from './formats'

/** Reads row `row` of the panels into `target` (length inFeatures). */
export function decodeRow(
  format: WeightFormat,
  panels: Int32Array | Float32Array,
  row: number,
  inFeatures: number,
  target: Float32Array,
): void {
  if (panels instanceof Float32Array) {
    const from = (row >> 3) * 8 * inFeatures + (row & 7)
    for (let k = 0; k < inFeatures; k++) target[k] = panels[from + k * 8] ?? 0
    return
  }
  decoders[format as Exclude<WeightFormat, 'f32'>](panels, row >> 3, row & 7, inFeatures, target)
}

type Decoder = (words: Int32Array, panel: number, r: number, inFeatures: number, target: Float32Array) => void

const decoders: Record<Exclude<WeightFormat, 'f32'>, Decoder> = {
  f16(words, panel, r, inFeatures, target) {
    const from = panel * ((inFeatures + 1) >> 1) * 8 + r
    for (let k = 0; k < inFeatures; k++) target[k] = halfToFloat((words[from + (k >> 1) * 8] ?? 0) >>> ((k & 1) * 16))
  },
  q4_0(words, panel, r, inFeatures, target) {
    for (let block = 0; block < inFeatures / 32; block++) {
      const from = (panel * (inFeatures / 32) + block) * 36
      const scale = sharedScale(words, from, r)
      for (let k = 0; k < 32; k++) target[block * 32 + k] = scale * (nibble(words, from + 4, r, k) - 8)
    }
  },
  q4_1(words, panel, r, inFeatures, target) {
    for (let block = 0; block < inFeatures / 32; block++) {
      const from = (panel * (inFeatures / 32) + block) * 40
      const meta = words[from + r] ?? 0
      const [scale, offset] = [halfToFloat(meta), halfToFloat(meta >>> 16)]
      for (let k = 0; k < 32; k++) target[block * 32 + k] = Math.fround(scale * nibble(words, from + 8, r, k)) + offset
    }
  },
  q8_0(words, panel, r, inFeatures, target) {
    for (let block = 0; block < inFeatures / 32; block++) {
      const from = (panel * (inFeatures / 32) + block) * 68
      const scale = sharedScale(words, from, r)
      for (let k = 0; k < 32; k++) {
        const at = (k >> 2) * 32 + (r >> 2) * 16 + ((k >> 1) & 1) * 8 + (r & 3) * 2 + (k & 1)
        target[block * 32 + k] = scale * signedByte(words, from + 4, at)
      }
    }
  },
  q6_k(words, panel, r, inFeatures, target) {
    for (let block = 0; block < inFeatures / 256; block++) {
      const from = (panel * (inFeatures / 256) + block) * 420
      const scale = sharedScale(words, from, r)
      for (let k = 0; k < 256; k++) {
        const part = from + 36 + (k >> 5) * 48
        const high = words[part + 32 + (r >> 2) * 8 + ((k >> 4) & 1) * 4 + (r & 3)] ?? 0
        const code = nibble(words, part, r, k & 31) | (((high >>> ((k & 14) + (k & 1) * 16)) & 3) << 4)
        target[block * 256 + k] = Math.fround(scale * signedByte(words, from + 4, (k >> 4) * 8 + r)) * (code - 32)
      }
    }
  },
}

/** Scale of row r in four words that hold rows r and r + 4. */
function sharedScale(words: Int32Array, from: number, r: number): number {
  return halfToFloat((words[from + (r & 3)] ?? 0) >>> ((r >> 2) * 16))
}

function nibble(words: Int32Array, from: number, r: number, k: number): number {
  return ((words[from + (r >> 2) * 16 + (k >> 3) * 4 + (r & 3)] ?? 0) >>> ((k & 6) * 2 + (k & 1) * 16)) & 15
}

function signedByte(words: Int32Array, from: number, byte: number): number {
  return ((words[from + (byte >> 2)] ?? 0) << (24 - (byte & 3) * 8)) >> 24
}

/** Value of the half in the low 16 bits; finite halves only (exponent 31 continues the finite range, as in the wasm form). */
function halfToFloat(bits: number): number {
  const exponent = (bits >>> 10) & 31
  const mantissa = bits & 1023
  const magnitude = exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25)
  return bits & 0x8000 ? -magnitude : magnitude
}
