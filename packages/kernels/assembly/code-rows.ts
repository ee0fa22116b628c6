// Dot products of a few query rows (1 to 3) with packed affine rows, codes along the row (keys grouped along channels):
//   output[h][r] += sum over k of x[h][k] * (code[r][k] * scale + minimum)
// Four words of a row at a time; lane j of the vector for bit b holds channel j * perWord + b / bits of the block. The query is laid out in that
// order beforehand, divided by the power of two that a code masked in place carries, with its lane sums for the minima.
import { metadataLanes, metadataOf } from './affine'
import { sum4 } from './math'
import { storeTransposed } from './transpose'

/** Blocks of four words in a row. */
// @ts-ignore: decorator
@inline
function blocksOf(dim: i32, bits: i32): i32 {
  return (dim * bits + 127) >> 7
}

/** Bytes of one query row in permuted order: for each block perWord vectors, then their sum. */
// @ts-ignore: decorator
@inline
function permutedBytes(dim: i32, bits: i32): usize {
  return <usize>(blocksOf(dim, bits) * (32 / bits + 1)) * 16
}

/** Floats of padding that reading whole blocks of a query row may need. */
const ROW_PADDING: i32 = 64

/** Bytes that `permuteQueries` writes for `rows` query rows, at most (8 bits have the most sums), its working row included. */
// @ts-ignore: decorator
@inline
export function permutedScratch(rows: i32, dim: i32): i32 {
  return (rows + 1) * (dim + ROW_PADDING) * 5
}

/** Query rows x [rows][padded] to permuted order at `to`. */
export function permuteQueries(rows: i32, x: usize, padded: i32, dim: i32, bits: i32, to: usize): void {
  const perWord = 32 / bits
  const blockBytes = <usize>perWord * 16
  const bytes = permutedBytes(dim, bits)
  const row = to + <usize>rows * bytes
  memory.fill(row + <usize>dim * 4, 0, ROW_PADDING * 4)
  for (let h = 0; h < rows; h++, x += <usize>padded * 4) {
    memory.copy(row, x, <usize>dim * 4)
    const end = row + <usize>blocksOf(dim, bits) * blockBytes
    for (let block = row; block < end; block += blockBytes) {
      let sum = f32x4.splat(0)
      for (let k = 0; k < perWord; k += 4, to += 64) {
        const lane = block + <usize>k * 4
        storeTransposed(to, 16, v128.load(lane), v128.load(lane + <usize>perWord * 4), v128.load(lane + <usize>perWord * 8), v128.load(lane + <usize>perWord * 12))
        for (let i = 0; i < 4; i++) {
          const at = to + <usize>i * 16
          sum = f32x4.add(sum, v128.load(at))
          // The last of four bytes is shifted down, not masked in place.
          const power = bits == 8 && i == 3 ? 0 : i * bits
          v128.store(at, f32x4.mul(v128.load(at), f32x4.splat(reinterpret<f32>((127 - power) << 23))))
        }
      }
      v128.store(to, sum)
      to += 16
    }
  }
}

/** The last block of a row may have fewer than four words. */
// @ts-ignore: decorator
@inline
function loadWords(from: usize, count: i32): v128 {
  if (count >= 4) return v128.load(from)
  let words = v128.load32_zero(from)
  if (count > 1) words = v128.load32_lane(from + 4, words, 1)
  if (count > 2) words = v128.load32_lane(from + 8, words, 2)
  return words
}

// @ts-ignore: decorator
@inline
function dotCodesOf(H: i32, x: usize, xStride: usize, words: usize, wordStride: usize, metadata: usize, metadataStride: usize, form: i32, count: i32, bits: i32, group: i32, dim: i32, output: usize, outputStride: usize): void {
  const perWord = 32 / bits
  const last = (dim - 1) / group
  const one = group % (4 * perWord) == 0
  const m0 = i32x4.splat((1 << bits) - 1)
  const m1 = i32x4.shl(m0, bits)
  const m2 = i32x4.shl(m1, bits)
  const m3 = i32x4.shl(m2, bits)
  for (let r = 0; r < count; r++, words += wordStride, metadata += metadataStride, output += 4) {
    let at = x
    let totalA = f32x4.splat(0), totalB = totalA, totalC = totalA
    for (let e = 0; e < dim; e += 4 * perWord) {
      let word = loadWords(words + <usize>((e * bits) >> 3), ((dim - e) * bits + 31) >> 5)
      let a = f32x4.splat(0), b = a, c = a
      for (let shift = 0; shift < 32; shift += 4 * bits, at += 64) {
        let y = f32x4.convert_i32x4_s(v128.and(word, m0))
        a = f32x4.add(a, f32x4.mul(y, v128.load(at)))
        if (H > 1) b = f32x4.add(b, f32x4.mul(y, v128.load(at + xStride)))
        if (H > 2) c = f32x4.add(c, f32x4.mul(y, v128.load(at + 2 * xStride)))
        y = f32x4.convert_i32x4_s(v128.and(word, m1))
        a = f32x4.add(a, f32x4.mul(y, v128.load(at, 16)))
        if (H > 1) b = f32x4.add(b, f32x4.mul(y, v128.load(at + xStride, 16)))
        if (H > 2) c = f32x4.add(c, f32x4.mul(y, v128.load(at + 2 * xStride, 16)))
        y = f32x4.convert_i32x4_s(v128.and(word, m2))
        a = f32x4.add(a, f32x4.mul(y, v128.load(at, 32)))
        if (H > 1) b = f32x4.add(b, f32x4.mul(y, v128.load(at + xStride, 32)))
        if (H > 2) c = f32x4.add(c, f32x4.mul(y, v128.load(at + 2 * xStride, 32)))
        y = f32x4.convert_i32x4_s(bits == 8 ? i32x4.shr_u(word, 24) : v128.and(word, m3))
        a = f32x4.add(a, f32x4.mul(y, v128.load(at, 48)))
        if (H > 1) b = f32x4.add(b, f32x4.mul(y, v128.load(at + xStride, 48)))
        if (H > 2) c = f32x4.add(c, f32x4.mul(y, v128.load(at + 2 * xStride, 48)))
        word = i32x4.shr_u(word, 4 * bits)
      }
      const g0 = <usize>(e / group)
      let scale: v128, minimum: v128
      if (one) {
        scale = f32x4.splat(metadataOf(metadata, form, 0, bits, g0))
        minimum = f32x4.splat(metadataOf(metadata, form, 1, bits, g0))
      } else {
        const g1 = <usize>min(last, (e + perWord) / group)
        const g2 = <usize>min(last, (e + 2 * perWord) / group)
        const g3 = <usize>min(last, (e + 3 * perWord) / group)
        scale = metadataLanes(metadata, form, 0, bits, g0, g1, g2, g3)
        minimum = metadataLanes(metadata, form, 1, bits, g0, g1, g2, g3)
      }
      totalA = f32x4.add(totalA, f32x4.add(f32x4.mul(a, scale), f32x4.mul(v128.load(at), minimum)))
      if (H > 1) totalB = f32x4.add(totalB, f32x4.add(f32x4.mul(b, scale), f32x4.mul(v128.load(at + xStride), minimum)))
      if (H > 2) totalC = f32x4.add(totalC, f32x4.add(f32x4.mul(c, scale), f32x4.mul(v128.load(at + 2 * xStride), minimum)))
      at += 16
    }
    store<f32>(output, load<f32>(output) + sum4(totalA))
    if (H > 1) store<f32>(output + outputStride, load<f32>(output + outputStride) + sum4(totalB))
    if (H > 2) store<f32>(output + 2 * outputStride, load<f32>(output + 2 * outputStride) + sum4(totalC))
  }
}

/** `dotCodesOf` for h = 1, 2 or 3 query rows from row `first` of the permuted queries on; `wholeWords` must hold for element 0. */
export function dotCodes(h: i32, permuted: usize, first: i32, words: usize, wordStride: usize, metadata: usize, metadataStride: usize, form: i32, count: i32, bits: i32, group: i32, dim: i32, output: usize, outputStride: usize): void {
  const stride = permutedBytes(dim, bits)
  const x = permuted + <usize>first * stride
  if (h == 3) dotCodesOf(3, x, stride, words, wordStride, metadata, metadataStride, form, count, bits, group, dim, output, outputStride)
  else if (h == 2) dotCodesOf(2, x, stride, words, wordStride, metadata, metadataStride, form, count, bits, group, dim, output, outputStride)
  else dotCodesOf(1, x, stride, words, wordStride, metadata, metadataStride, form, count, bits, group, dim, output, outputStride)
}
