// Products of a few query rows (1 to 3) with packed affine lines, without unpacking them to memory:
//   output[h][e] += sum over lines r of x[h][r] * (code[r][e] * scale + minimum)
// The factor x * scale is made once per line and group, so that the inner loop sees integers: four words (128 bits) of a line at a time,
// lane j of the vector for bit b holds element j * perWord + b / bits. A code is not shifted down: masked in place it is a multiple
// of a power of two, converted exactly, and the power of two leaves at the end (`unit`).
// Keys along tokens: lines are channels, x the query. Values along channels: lines are tokens, x the probabilities.
import { Metadata, metadataLanes } from './affine'
import { addTransposed } from './transpose'

/** Scratch bytes for `lines` lines: the factors of 3 query rows, and padded words. */
// @ts-ignore: decorator
@inline
export function codeScratch(lines: i32): i32 {
  return lines * 64 + 64
}

/** One block of four words, four codes of each word: bits shift .. shift + 4 * bits. */
// @ts-ignore: decorator
@inline
function addBlock(H: i32, bytes: bool, words: usize, stride: usize, lines: i32, factors: usize, bits: i32, shift: i32, output: usize, outputStride: usize, laneStride: usize): void {
  const m0 = i32x4.splat((1 << bits) - 1)
  const m1 = i32x4.shl(m0, bits)
  const m2 = i32x4.shl(m1, bits)
  const m3 = i32x4.shl(m2, bits)
  let a0 = f32x4.splat(0), a1 = a0, a2 = a0, a3 = a0
  let b0 = a0, b1 = a0, b2 = a0, b3 = a0
  let c0 = a0, c1 = a0, c2 = a0, c3 = a0
  const end = factors + <usize>lines * H * 16
  for (let at = factors; at < end; at += H * 16, words += stride) {
    const word = bytes ? v128.load(words) : i32x4.shr_u(v128.load(words), shift)
    const xa = v128.load(at)
    const xb = H > 1 ? v128.load(at, 16) : xa
    const xc = H > 2 ? v128.load(at, 32) : xa
    let y = f32x4.convert_i32x4_s(v128.and(word, m0))
    a0 = f32x4.add(a0, f32x4.mul(xa, y))
    if (H > 1) b0 = f32x4.add(b0, f32x4.mul(xb, y))
    if (H > 2) c0 = f32x4.add(c0, f32x4.mul(xc, y))
    y = f32x4.convert_i32x4_s(v128.and(word, m1))
    a1 = f32x4.add(a1, f32x4.mul(xa, y))
    if (H > 1) b1 = f32x4.add(b1, f32x4.mul(xb, y))
    if (H > 2) c1 = f32x4.add(c1, f32x4.mul(xc, y))
    y = f32x4.convert_i32x4_s(v128.and(word, m2))
    a2 = f32x4.add(a2, f32x4.mul(xa, y))
    if (H > 1) b2 = f32x4.add(b2, f32x4.mul(xb, y))
    if (H > 2) c2 = f32x4.add(c2, f32x4.mul(xc, y))
    // The top byte of a word would convert as a negative number: it is shifted down instead.
    y = f32x4.convert_i32x4_s(bytes ? i32x4.shr_u(word, 24) : v128.and(word, m3))
    a3 = f32x4.add(a3, f32x4.mul(xa, y))
    if (H > 1) b3 = f32x4.add(b3, f32x4.mul(xb, y))
    if (H > 2) c3 = f32x4.add(c3, f32x4.mul(xc, y))
  }
  const u1 = f32x4.splat(reinterpret<f32>((127 - bits) << 23))
  const u2 = f32x4.splat(reinterpret<f32>((127 - 2 * bits) << 23))
  const u3 = f32x4.splat(bytes ? 1 : reinterpret<f32>((127 - 3 * bits) << 23))
  addTransposed(output, laneStride, a0, f32x4.mul(a1, u1), f32x4.mul(a2, u2), f32x4.mul(a3, u3))
  if (H > 1) addTransposed(output + outputStride, laneStride, b0, f32x4.mul(b1, u1), f32x4.mul(b2, u2), f32x4.mul(b3, u3))
  if (H > 2) addTransposed(output + 2 * outputStride, laneStride, c0, f32x4.mul(c1, u1), f32x4.mul(c2, u2), f32x4.mul(c3, u3))
}

// @ts-ignore: decorator
@inline
function addFlat(output: usize, count: i32, x: v128): void {
  for (let i: usize = 0; i < <usize>count * 4; i += 16) v128.store(output + i, f32x4.add(v128.load(output + i), x))
}

/** Factors x * scale as vectors [line][h], and the sums of x * minimum added to the output. */
// @ts-ignore: decorator
@inline
function foldMetadata(H: i32, form: i32, bits: i32, x: usize, xStride: usize, lines: i32, metadata: usize, metadataStride: usize, a: usize, b: usize, c: usize, d: usize, factors: usize, output: usize, outputStride: usize, perWord: i32): void {
  let biasA = f32x4.splat(0), biasB = biasA, biasC = biasA
  const end = x + <usize>lines * 4
  for (let at = x; at < end; at += 4, metadata += metadataStride, factors += H * 16) {
    const scale = metadataLanes(metadata, form, 0, bits, a, b, c, d)
    const minimum = metadataLanes(metadata, form, 1, bits, a, b, c, d)
    const xa = v128.load32_splat(at)
    v128.store(factors, f32x4.mul(xa, scale))
    biasA = f32x4.add(biasA, f32x4.mul(xa, minimum))
    if (H > 1) {
      const xb = v128.load32_splat(at + xStride)
      v128.store(factors, f32x4.mul(xb, scale), 16)
      biasB = f32x4.add(biasB, f32x4.mul(xb, minimum))
    }
    if (H > 2) {
      const xc = v128.load32_splat(at + 2 * xStride)
      v128.store(factors, f32x4.mul(xc, scale), 32)
      biasC = f32x4.add(biasC, f32x4.mul(xc, minimum))
    }
  }
  const laneStride = <usize>perWord * 4
  for (let k = 0; k < perWord; k += 4) {
    const to = output + <usize>k * 4
    addTransposed(to, laneStride, biasA, biasA, biasA, biasA)
    if (H > 1) addTransposed(to + outputStride, laneStride, biasB, biasB, biasB, biasB)
    if (H > 2) addTransposed(to + 2 * outputStride, laneStride, biasC, biasC, biasC, biasC)
  }
}

/** Elements from..from+count of `lines` lines; `wholeWords` must hold. Writes whole blocks: up to 128 / bits - 1 floats past `count` become garbage. */
// @ts-ignore: decorator
@inline
function addCodesOf(H: i32, x: usize, xStride: usize, words: usize, wordStride: usize, metadata: usize, metadataStride: usize, form: i32, lines: i32, bits: i32, group: i32, from: i32, count: i32, output: usize, outputStride: usize, scratch: usize): void {
  const perWord = 32 / bits
  const last = (from + count - 1) / group
  const padded = scratch + <usize>lines * H * 16
  for (let e = from; e < from + count; e += 4 * perWord) {
    const a = <usize>(e / group)
    const b = <usize>min(last, (e + perWord) / group)
    const c = <usize>min(last, (e + 2 * perWord) / group)
    const d = <usize>min(last, (e + 3 * perWord) / group)
    const to = output + <usize>(e - from) * 4
    if (form == Metadata.halves) foldMetadata(H, Metadata.halves, bits, x, xStride, lines, metadata, metadataStride, a, b, c, d, scratch, to, outputStride, perWord)
    else if (form == Metadata.halfScales) foldMetadata(H, Metadata.halfScales, bits, x, xStride, lines, metadata, metadataStride, a, b, c, d, scratch, to, outputStride, perWord)
    else foldMetadata(H, form, bits, x, xStride, lines, metadata, metadataStride, a, b, c, d, scratch, to, outputStride, perWord)
    let block = words + <usize>((e * bits) >> 3)
    let stride = wordStride
    const wordsLeft = ((from + count - e) * bits + 31) >> 5
    if (wordsLeft < 4) {
      for (let line = 0; line < lines; line++, block += wordStride) {
        let vector = v128.load32_zero(block)
        if (wordsLeft > 1) vector = v128.load32_lane(block + 4, vector, 1)
        if (wordsLeft > 2) vector = v128.load32_lane(block + 8, vector, 2)
        v128.store(padded + <usize>line * 16, vector)
      }
      block = padded
      stride = 16
    }
    const laneStride = <usize>perWord * 4
    if (bits == 8) addBlock(H, true, block, stride, lines, scratch, 8, 0, to, outputStride, laneStride)
    else {
      for (let shift = 0; shift < 32; shift += 4 * bits) {
        addBlock(H, false, block, stride, lines, scratch, bits, shift, to + <usize>(shift / bits) * 4, outputStride, laneStride)
      }
    }
  }
}

/** `addCodesOf` for h = 1, 2 or 3 query rows. */
export function addCodes(h: i32, x: usize, xStride: usize, words: usize, wordStride: usize, metadata: usize, metadataStride: usize, form: i32, lines: i32, bits: i32, group: i32, from: i32, count: i32, output: usize, outputStride: usize, scratch: usize): void {
  if (h == 3) addCodesOf(3, x, xStride, words, wordStride, metadata, metadataStride, form, lines, bits, group, from, count, output, outputStride, scratch)
  else if (h == 2) addCodesOf(2, x, xStride, words, wordStride, metadata, metadataStride, form, lines, bits, group, from, count, output, outputStride, scratch)
  else addCodesOf(1, x, xStride, words, wordStride, metadata, metadataStride, form, lines, bits, group, from, count, output, outputStride, scratch)
}
