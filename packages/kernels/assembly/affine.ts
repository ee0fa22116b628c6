// Affine codes: groups of `group` elements along a LINE (a channel's tokens, or a token's channels) share a scale and a minimum.
// A line's codes are a bit stream, lowest bits first; its metadata is one word a group (half scale low, half minimum high) or two f32. Symmetric
// codes stand for code - 2^(bits - 1) and have scales alone: halves, two groups a word, or one f32 a group. Both steps of `code * scale + minimum`
// are exact there where scales are halves, so that it is `(code - 2^(bits - 1)) * scale`.
import { floatFromTopHalf, halfFromFloat, halfValue } from './half'
import { storeTransposed } from './transpose'

/** How the metadata of a line lies. */
export namespace Metadata {
  // @ts-ignore: decorator
  @inline
  export const halves: i32 = 0
  // @ts-ignore: decorator
  @inline
  export const floats: i32 = 1
  // @ts-ignore: decorator
  @inline
  export const halfScales: i32 = 2
  // @ts-ignore: decorator
  @inline
  export const floatScales: i32 = 3
}

/** Bytes of the metadata of a line of `groups` groups. */
// @ts-ignore: decorator
@inline
function metadataBytes(groups: i32, form: i32): usize {
  if (form == Metadata.floats) return <usize>groups * 8
  return form == Metadata.halfScales ? <usize>((groups + 1) >> 1) * 4 : <usize>groups * 4
}

/** What the codes of symmetric groups are moved by, for a scale of 1. */
// @ts-ignore: decorator
@inline
function symmetricMinimum(bits: i32): f32 {
  return -<f32>(1 << (bits - 1))
}

/** Four words at four addresses. */
// @ts-ignore: decorator
@inline
export function gather4(a: usize, b: usize, c: usize, d: usize): v128 {
  return v128.load32_lane(d, v128.load32_lane(c, v128.load32_lane(b, v128.load32_zero(a), 1), 2), 3)
}

// @ts-ignore: decorator
@inline
function storeLanes(address: usize, stride: usize, lanes: v128, count: i32): void {
  v128.store32_lane(address, lanes, 0)
  if (count > 1) v128.store32_lane(address + stride, lanes, 1)
  if (count > 2) v128.store32_lane(address + 2 * stride, lanes, 2)
  if (count > 3) v128.store32_lane(address + 3 * stride, lanes, 3)
}

/** Element of four lines; they are neighbours in memory when `adjacent`. */
// @ts-ignore: decorator
@inline
function load4(adjacent: bool, a: usize, b: usize, c: usize, d: usize, offset: usize): v128 {
  return adjacent ? v128.load(a + offset) : gather4(a + offset, b + offset, c + offset, d + offset)
}

/**
 * rows f32 [heads, n, dim] to words [heads, lines, ceil(elements * bits / 32)] and metadata [heads, lines, elements / group (, 2)].
 * `alongTokens` 1: lines are channels and elements tokens; 0: the reverse. `wide` 1: f32 metadata. Four lines at a time.
 */
export function affineEncode(rows: usize, heads: i32, n: i32, dim: i32, bits: i32, group: i32, alongTokens: i32, wide: i32, words: usize, metadata: usize): void {
  const lines = alongTokens ? dim : n
  const elements = alongTokens ? n : dim
  const lineStride: usize = alongTokens ? 4 : <usize>dim * 4
  const elementStride: usize = alongTokens ? <usize>dim * 4 : 4
  const wordStride = <usize>((elements * bits + 31) >> 5) * 4
  const groupBytes: usize = wide ? 8 : 4
  const metadataStride = <usize>(elements / group) * groupBytes
  const top = f32x4.splat(<f32>((1 << bits) - 1))
  const zero = f32x4.splat(0)
  for (let head = 0; head < heads; head++) {
    for (let line = 0; line < lines; line += 4) {
      const valid = min(4, lines - line)
      const adjacent = alongTokens != 0 && valid == 4
      const a = rows + (<usize>head * n * dim) * 4 + <usize>line * lineStride
      const b = valid > 1 ? a + lineStride : a
      const c = valid > 2 ? b + lineStride : a
      const d = valid > 3 ? c + lineStride : a
      let wordAt = words + (<usize>head * lines + line) * wordStride
      let metadataAt = metadata + (<usize>head * lines + line) * metadataStride
      let pending = i32x4.splat(0)
      let filled = 0
      for (let start = 0; start < elements; start += group, metadataAt += groupBytes) {
        const first = <usize>start * elementStride
        const end = first + <usize>group * elementStride
        let minimum = load4(adjacent, a, b, c, d, first)
        let maximum = minimum
        for (let at = first + elementStride; at < end; at += elementStride) {
          const x = load4(adjacent, a, b, c, d, at)
          minimum = f32x4.min(minimum, x)
          maximum = f32x4.max(maximum, x)
        }
        let scale = f32x4.div(f32x4.sub(maximum, minimum), top)
        if (wide) {
          storeLanes(metadataAt, metadataStride, scale, valid)
          storeLanes(metadataAt + 4, metadataStride, minimum, valid)
        } else {
          const low = halfFromFloat(scale)
          const high = i32x4.shl(halfFromFloat(minimum), 16)
          storeLanes(metadataAt, metadataStride, v128.or(low, high), valid)
          // The codes are computed with what is stored.
          scale = floatFromTopHalf(i32x4.shl(low, 16))
          minimum = floatFromTopHalf(high)
        }
        const spread = f32x4.ne(scale, zero)
        for (let at = first; at < end; at += elementStride) {
          const quotient = f32x4.div(f32x4.sub(load4(adjacent, a, b, c, d, at), minimum), scale)
          const clamped = f32x4.min(f32x4.max(quotient, zero), top)
          const code = i32x4.trunc_sat_f32x4_s(f32x4.nearest(v128.and(clamped, spread)))
          pending = v128.or(pending, i32x4.shl(code, filled))
          filled += bits
          if (filled >= 32) {
            storeLanes(wordAt, wordStride, pending, valid)
            wordAt += 4
            filled -= 32
            pending = filled > 0 ? i32x4.shr_u(code, bits - filled) : i32x4.splat(0)
          }
        }
      }
      if (filled > 0) storeLanes(wordAt, wordStride, pending, valid)
    }
  }
}

/**
 * Code of one element: `bits` bits from bit `bit` of the line on. Eight bits at any offset lie within two bytes; the second may be the byte after
 * the tensor, which the allocator always has.
 */
// @ts-ignore: decorator
@inline
function codeAt(line: usize, bit: u32, mask: u32): u32 {
  return (<u32>load<u16>(line + <usize>(bit >> 3)) >> (bit & 7)) & mask
}

/** True when every word of a stretch that starts at element `from` holds one group only, so that whole words can be unpacked at once. */
// @ts-ignore: decorator
@inline
export function wholeWords(bits: i32, group: i32, from: i32): bool {
  return (bits == 2 || bits == 4 || bits == 8) && ((group * bits) & 31) == 0 && ((from * bits) & 31) == 0
}

/** Scale (`part` 0) or minimum (1) of group `number` of a line. */
// @ts-ignore: decorator
@inline
export function metadataOf(metadata: usize, form: i32, part: usize, bits: i32, number: usize): f32 {
  if (form == Metadata.floats) return load<f32>(metadata + number * 8 + part * 4)
  if (form == Metadata.halves) return halfValue(<u32>load<u16>(metadata + number * 4 + part * 2))
  const scale = form == Metadata.halfScales ? halfValue(<u32>load<u16>(metadata + number * 2)) : load<f32>(metadata + number * 4)
  return part == 0 ? scale : scale * symmetricMinimum(bits)
}

/** Scales (`part` 0) or minima (1) of the groups of four elements of a line, as lanes. */
// @ts-ignore: decorator
@inline
export function metadataLanes(metadata: usize, form: i32, part: usize, bits: i32, a: usize, b: usize, c: usize, d: usize): v128 {
  if (form >= Metadata.halfScales) {
    let scales: v128
    if (form == Metadata.floatScales) scales = gather4(metadata + a * 4, metadata + b * 4, metadata + c * 4, metadata + d * 4)
    else {
      let halves = i32x4.splat(<i32>load<u16>(metadata + a * 2))
      halves = i32x4.replace_lane(halves, 1, <i32>load<u16>(metadata + b * 2))
      halves = i32x4.replace_lane(halves, 2, <i32>load<u16>(metadata + c * 2))
      halves = i32x4.replace_lane(halves, 3, <i32>load<u16>(metadata + d * 2))
      scales = floatFromTopHalf(i32x4.shl(halves, 16))
    }
    return part == 0 ? scales : f32x4.mul(scales, f32x4.splat(symmetricMinimum(bits)))
  }
  if (form == Metadata.floats) {
    const base = metadata + part * 4
    return gather4(base + a * 8, base + b * 8, base + c * 8, base + d * 8)
  }
  const words = gather4(metadata + a * 4, metadata + b * 4, metadata + c * 4, metadata + d * 4)
  return floatFromTopHalf(part == 0 ? i32x4.shl(words, 16) : words)
}

/** Elements from..from+count of one line: output = code * scale + minimum, f32. */
export function decodeLine(line: usize, metadata: usize, form: i32, bits: i32, group: i32, from: i32, count: i32, output: usize): void {
  let e = from
  const end = from + count
  if (wholeWords(bits, group, from)) {
    const perWord = 32 / bits
    const mask = i32x4.splat((1 << bits) - 1)
    for (; e + 4 * perWord <= end; e += 4 * perWord) {
      const words = v128.load(line + <usize>((e * bits) >> 3))
      const a = <usize>(e / group)
      const b = <usize>((e + perWord) / group)
      const c = <usize>((e + 2 * perWord) / group)
      const d = <usize>((e + 3 * perWord) / group)
      const scale = metadataLanes(metadata, form, 0, bits, a, b, c, d)
      const minimum = metadataLanes(metadata, form, 1, bits, a, b, c, d)
      let to = output + <usize>(e - from) * 4
      for (let shift = 0; shift < 32; shift += 4 * bits, to += 16) {
        const c0 = v128.and(i32x4.shr_u(words, shift), mask)
        const c1 = v128.and(i32x4.shr_u(words, shift + bits), mask)
        const c2 = v128.and(i32x4.shr_u(words, shift + 2 * bits), mask)
        const c3 = v128.and(i32x4.shr_u(words, shift + 3 * bits), mask)
        storeTransposed(to, <usize>perWord * 4,
          f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(c0), scale), minimum),
          f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(c1), scale), minimum),
          f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(c2), scale), minimum),
          f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(c3), scale), minimum))
      }
    }
  }
  const lineBytes = ((end * bits + 31) >> 5) * 4
  let toTop = i32x4.splat(1 << (32 - bits))
  toTop = i32x4.replace_lane(toTop, 1, 1 << (32 - 2 * bits))
  toTop = i32x4.replace_lane(toTop, 2, 1 << (32 - 3 * bits))
  toTop = i32x4.replace_lane(toTop, 3, 1 << (32 - 4 * bits))
  while (e < end) {
    const number = e / group
    const stop = min(end, (number + 1) * group)
    const scale = metadataOf(metadata, form, 0, bits, number)
    const minimum = metadataOf(metadata, form, 1, bits, number)
    if (((e | group) & 3) == 0) {
      const scales = f32x4.splat(scale)
      const minima = f32x4.splat(minimum)
      for (; e + 4 <= stop; e += 4) {
        const byte = (e * bits) >> 3
        if (byte + 4 > lineBytes) break
        // Four codes from bit 0 or 4 on always fit a word. A multiplication shifts each lane by its own amount, to the top of the word.
        const word = i32x4.splat(load<u32>(line + <usize>byte) >> <u32>((e * bits) & 7))
        const codes = i32x4.shr_u(i32x4.mul(word, toTop), 32 - bits)
        v128.store(output + <usize>(e - from) * 4, f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(codes), scales), minima))
      }
    }
    const mask = <u32>((1 << bits) - 1)
    for (; e < stop; e++) {
      const code = codeAt(line, <u32>(e * bits), mask)
      store<f32>(output + <usize>(e - from) * 4, <f32>code * scale + minimum)
    }
  }
}

/** Rows from..from+count of a page, as f32 [heads, count, dim]; `pageRows` rows were encoded. scratch: 64 floats. */
export function affineDecode(words: usize, metadata: usize, heads: i32, pageRows: i32, dim: i32, bits: i32, group: i32, alongTokens: i32, form: i32, from: i32, count: i32, output: usize, scratch: usize): void {
  const elements = alongTokens ? pageRows : dim
  const lines = alongTokens ? dim : pageRows
  const wordStride = <usize>((elements * bits + 31) >> 5) * 4
  const metadataStride = metadataBytes(elements / group, form)
  for (let head = 0; head < heads; head++) {
    const headWords = words + <usize>head * lines * wordStride
    const headMetadata = metadata + <usize>head * lines * metadataStride
    const headOutput = output + <usize>head * count * dim * 4
    if (!alongTokens) {
      for (let row = 0; row < count; row++) {
        const line = <usize>(from + row)
        decodeLine(headWords + line * wordStride, headMetadata + line * metadataStride, form, bits, group, 0, dim, headOutput + <usize>row * dim * 4)
      }
      continue
    }
    for (let start = 0; start < count; start += 64) {
      const size = min(64, count - start)
      for (let channel = 0; channel < dim; channel++) {
        decodeLine(headWords + <usize>channel * wordStride, headMetadata + <usize>channel * metadataStride, form, bits, group, from + start, size, scratch)
        let to = headOutput + (<usize>start * dim + channel) * 4
        for (let i = 0; i < size; i++, to += <usize>dim * 4) store<f32>(to, load<f32>(scratch + <usize>i * 4))
      }
    }
  }
}

/** 1 when a scale or minimum is infinite or NaN: the rows do not fit the metadata. `count` words of halves, or f32 values when wide. */
export function metadataOverflow(metadata: usize, count: i32, wide: i32): i32 {
  for (let i: usize = 0; i < <usize>count * 4; i += 4) {
    const word = load<u32>(metadata + i)
    if (wide) {
      if ((word & 0x7f800000) == 0x7f800000) return 1
    } else if ((word & 0x7c00) == 0x7c00 || (word & 0x7c000000) == 0x7c000000) return 1
  }
  return 0
}
