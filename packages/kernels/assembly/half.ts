// Half precision inside 32-bit words: conversion both ways, exact for denormals, infinities and NaN. Inlined helpers, not exported from the module.

/** Halves in the TOP 16 bits of each lane (low bits ignored) as f32. */
// @ts-ignore: decorator
@inline
export function floatFromTopHalf(x: v128): v128 {
  const special = i32x4.eq(v128.and(x, i32x4.splat(0x7c000000)), i32x4.splat(0x7c000000))
  return v128.or(floatFromFiniteTopHalf(x), v128.and(special, i32x4.splat(0x7f800000)))
}

/** As `floatFromTopHalf`, for words known to hold finite halves only. */
// @ts-ignore: decorator
@inline
export function floatFromFiniteTopHalf(x: v128): v128 {
  // Exponent and mantissa move to their f32 places; 2^112 corrects the bias and normalises denormals.
  const shifted = v128.and(i32x4.shr_s(x, 3), i32x4.splat(0x8fffe000))
  return f32x4.mul(shifted, f32x4.splat(5192296858534827628530496329220096.0))
}

/** f32 lanes to halves in the LOW 16 bits, rounded to nearest even; from 65520 on infinity, NaN becomes 0x7e00. */
// @ts-ignore: decorator
@inline
export function halfFromFloat(x: v128): v128 {
  const sign = v128.and(x, i32x4.splat(0x80000000))
  const magnitude = v128.xor(x, sign)
  // Normal halves: rebias, then add half a unit (less one, plus the last kept bit: ties to even).
  const lastBit = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1))
  const normal = i32x4.shr_u(i32x4.add(i32x4.add(magnitude, i32x4.splat(0xc8000fff)), lastBit), 13)
  // Denormal halves: adding 0.5 lets the float adder round at the right place.
  const denormal = i32x4.sub(f32x4.add(magnitude, f32x4.splat(0.5)), i32x4.splat(0x3f000000))
  let half = v128.bitselect(denormal, normal, i32x4.lt_s(magnitude, i32x4.splat(0x38800000)))
  const large = v128.bitselect(i32x4.splat(0x7e00), i32x4.splat(0x7c00), i32x4.gt_s(magnitude, i32x4.splat(0x7f800000)))
  half = v128.bitselect(large, half, i32x4.ge_s(magnitude, i32x4.splat(0x47800000)))
  return v128.or(half, i32x4.shr_u(sign, 16))
}

/** One value rounded to half precision, as 16 bits. */
// @ts-ignore: decorator
@inline
export function halfBits(x: f32): u32 {
  return i32x4.extract_lane(halfFromFloat(f32x4.splat(x)), 0)
}

/** One half (low 16 bits) as f32. */
// @ts-ignore: decorator
@inline
export function halfValue(bits: u32): f32 {
  return f32x4.extract_lane(floatFromTopHalf(i32x4.splat(bits << 16)), 0)
}

/** Writes `width` f32 values as ceil(width / 2) words of two halves (low half first; an odd end has a zero half). */
export function packHalves(from: usize, to: usize, width: i32): void {
  let i = 0
  for (; i + 8 <= width; i += 8, from += 32, to += 16) {
    const a = halfFromFloat(v128.load(from))
    const b = halfFromFloat(v128.load(from, 16))
    const even = i8x16.shuffle(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
    const odd = i8x16.shuffle(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
    v128.store(to, v128.or(even, i32x4.shl(odd, 16)))
  }
  for (; i < width; i += 2, from += 8, to += 4) {
    const high = i + 1 < width ? halfBits(f32.load(from, 4)) : 0
    store<u32>(to, halfBits(f32.load(from)) | (high << 16))
  }
}

/** Reads `width` f32 values from words of two halves. */
export function unpackHalves(from: usize, to: usize, width: i32): void {
  let i = 0
  const zeros = i16x8.splat(0)
  let largest = zeros
  const start = from
  for (; i + 8 <= width; i += 8, from += 16) {
    const words = v128.load(from)
    largest = i16x8.max_u(largest, v128.and(words, i16x8.splat(0x7fff)))
    // Each half into the top of its lane: zeros lie below it.
    const low = i8x16.shuffle(zeros, words, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23)
    const high = i8x16.shuffle(zeros, words, 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31)
    v128.store(to + <usize>i * 4, floatFromFiniteTopHalf(low))
    v128.store(to + <usize>i * 4, floatFromFiniteTopHalf(high), 16)
  }
  // Infinities and NaN are rare: found by the largest exponent seen, then the row is read again, exactly.
  if (v128.any_true(i16x8.ge_u(largest, i16x8.splat(0x7c00)))) {
    i = 0
    from = start
  }
  for (; i < width; i += 2, from += 4) {
    const word = load<u32>(from)
    f32.store(to + <usize>i * 4, halfValue(word & 0xffff))
    if (i + 1 < width) f32.store(to + <usize>i * 4, halfValue(word >> 16), 4)
  }
}
