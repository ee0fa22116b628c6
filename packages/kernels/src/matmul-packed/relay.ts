// Re-lays GGUF rows into panels of 8 rows. Runs once per weight, at load. Layouts: formats.ts.
import { panelRows, panelWords, type WeightFormat } from './formats'

/** Rows `[outFeatures]` of raw blocks → words of all panels; missing rows of the last panel are zeros. */
export function relayRows(
  format: Exclude<WeightFormat, 'f32'>,
  rows: Uint8Array,
  outFeatures: number,
  inFeatures: number,
): Int32Array {
  const words = new Int32Array(Math.ceil(outFeatures / panelRows) * panelWords(format, inFeatures))
  relays[format](rows, outFeatures, inFeatures, words)
  return words
}

/** float32 rows → float32 panels. */
export function relayFloatRows(rows: Float32Array, outFeatures: number, inFeatures: number): Float32Array {
  const panels = new Float32Array(Math.ceil(outFeatures / panelRows) * panelRows * inFeatures)
  for (let row = 0; row < outFeatures; row++) {
    let to = (row >> 3) * panelRows * inFeatures + (row & 7)
    for (let from = row * inFeatures; from < (row + 1) * inFeatures; from++, to += panelRows)
      panels[to] = rows[from] ?? 0
  }
  return panels
}

type Relay = (rows: Uint8Array, outFeatures: number, inFeatures: number, words: Int32Array) => void

const relays: Record<Exclude<WeightFormat, 'f32'>, Relay> = {
  f16(rows, outFeatures, inFeatures, words) {
    const halves = new Uint16Array(words.buffer)
    const pairs = (inFeatures + 1) >> 1
    for (let row = 0, from = 0; row < outFeatures; row++) {
      const to = ((row >> 3) * pairs * 8 + (row & 7)) * 2
      for (let k = 0; k < inFeatures; k++, from += 2) halves[to + (k >> 1) * 16 + (k & 1)] = half(rows, from)
    }
  },
  q4_0: (rows, outFeatures, inFeatures, words) => relay4(rows, outFeatures, inFeatures, words, false),
  q4_1: (rows, outFeatures, inFeatures, words) => relay4(rows, outFeatures, inFeatures, words, true),
  q8_0(rows, outFeatures, inFeatures, words) {
    const bytes = new Uint8Array(words.buffer)
    const halves = new Uint16Array(words.buffer)
    const blocks = inFeatures / 32
    for (let row = 0, from = 0; row < outFeatures; row++) {
      const [group, lane] = [(row >> 2) & 1, row & 3]
      for (let block = 0; block < blocks; block++, from += 34) {
        const to = ((row >> 3) * blocks + block) * 272
        halves[to / 2 + lane * 2 + group] = half(rows, from)
        for (let k = 0; k < 32; k++)
          bytes[to + 16 + (k >> 2) * 32 + group * 16 + ((k >> 1) & 1) * 8 + lane * 2 + (k & 1)] =
            rows[from + 2 + k] ?? 0
      }
    }
  },
  q6_k(rows, outFeatures, inFeatures, words) {
    const bytes = new Uint8Array(words.buffer)
    const halves = new Uint16Array(words.buffer)
    const blocks = inFeatures / 256
    for (let row = 0, from = 0; row < outFeatures; row++) {
      const [group, lane] = [(row >> 2) & 1, row & 3]
      for (let block = 0; block < blocks; block++, from += 210) {
        const to = ((row >> 3) * blocks + block) * 420
        halves[to * 2 + lane * 2 + group] = half(rows, from + 208)
        for (let sub = 0; sub < 16; sub++) bytes[to * 4 + 16 + sub * 8 + (row & 7)] = rows[from + 192 + sub] ?? 0
        for (let k = 0; k < 256; k++) {
          const code = q6Code(rows, from, k)
          const part = to + 36 + (k >> 5) * 48
          const nibbleAt = part + group * 16 + ((k >> 3) & 3) * 4 + lane
          words[nibbleAt] = (words[nibbleAt] ?? 0) | ((code & 15) << (((k & 6) << 1) + ((k & 1) << 4)))
          const crumbAt = part + 32 + group * 8 + ((k >> 4) & 1) * 4 + lane
          words[crumbAt] = (words[crumbAt] ?? 0) | ((code >> 4) << ((k & 14) + ((k & 1) << 4)))
        }
      }
    }
  },
}

function relay4(
  rows: Uint8Array,
  outFeatures: number,
  inFeatures: number,
  words: Int32Array,
  hasOffset: boolean,
): void {
  const halves = new Uint16Array(words.buffer)
  const blocks = inFeatures / 32
  const [blockBytes, metaWords] = hasOffset ? [20, 8] : [18, 4]
  for (let row = 0, from = 0; row < outFeatures; row++) {
    const [group, lane] = [(row >> 2) & 1, row & 3]
    for (let block = 0; block < blocks; block++, from += blockBytes) {
      const to = ((row >> 3) * blocks + block) * (metaWords + 32)
      if (hasOffset) words[to + (row & 7)] = half(rows, from) | (half(rows, from + 2) << 16)
      else halves[(to + lane) * 2 + group] = half(rows, from)
      // Bytes 0-7 hold columns 0-7 (low nibbles) and 16-23 (high); bytes 8-15 hold columns 8-15 and 24-31.
      for (let part = 0; part < 2; part++) {
        const at = from + blockBytes - 16 + part * 8
        let low = 0
        let high = 0
        for (let k = 0; k < 8; k++) {
          const byte = rows[at + k] ?? 0
          const shift = ((k & 6) << 1) + ((k & 1) << 4)
          low |= (byte & 15) << shift
          high |= (byte >> 4) << shift
        }
        const wordAt = to + metaWords + group * 16 + part * 4 + lane
        words[wordAt] = low
        words[wordAt + 8] = high
      }
    }
  }
}

/** 6-bit code of column k (0..255) of the Q6_K block at `from`. */
function q6Code(rows: Uint8Array, from: number, k: number): number {
  const section = k >> 7
  const quarter = (k >> 5) & 3
  const l = k & 31
  const low = rows[from + section * 64 + (quarter & 1) * 32 + l] ?? 0
  const high = rows[from + 128 + section * 32 + l] ?? 0
  return (quarter < 2 ? low & 15 : low >> 4) | (((high >> (quarter * 2)) & 3) << 4)
}

function half(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8)
}
