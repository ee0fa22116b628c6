// Unpacks one panel of 8 rows to float32 [columns][8 rows]: the form the matrix product reads. Layouts: see matvec-*.ts.
import { highHalves, lowHalves } from './half-words'

/** blocks of 32. */
export function unpackQ41(weights: usize, blocks: i32, target: usize): void {
  const mask = i32x4.splat(15)
  for (let block = 0; block < blocks; block++) {
    const meta0 = v128.load(weights)
    const meta1 = v128.load(weights, 16)
    const scale0 = lowHalves(meta0)
    const scale1 = lowHalves(meta1)
    const offset0 = highHalves(meta0)
    const offset1 = highHalves(meta1)
    for (let column = 0; column < 32; column++) {
      const words = weights + 32 + (column >> 3) * 16
      const shift = ((column & 6) << 1) + ((column & 1) << 4)
      const codes0 = v128.and(i32x4.shr_u(v128.load(words), shift), mask)
      const codes1 = v128.and(i32x4.shr_u(v128.load(words, 64), shift), mask)
      v128.store(target, f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(codes0), scale0), offset0))
      v128.store(target, f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(codes1), scale1), offset1), 16)
      target += 32
    }
    weights += 160
  }
}

/** blocks of 32. */
export function unpackQ40(weights: usize, blocks: i32, target: usize): void {
  const mask = i32x4.splat(15)
  const middle = i32x4.splat(8)
  for (let block = 0; block < blocks; block++) {
    const meta = v128.load(weights)
    const scale0 = lowHalves(meta)
    const scale1 = highHalves(meta)
    for (let column = 0; column < 32; column++) {
      const words = weights + 16 + (column >> 3) * 16
      const shift = ((column & 6) << 1) + ((column & 1) << 4)
      const codes0 = i32x4.sub(v128.and(i32x4.shr_u(v128.load(words), shift), mask), middle)
      const codes1 = i32x4.sub(v128.and(i32x4.shr_u(v128.load(words, 64), shift), mask), middle)
      v128.store(target, f32x4.mul(f32x4.convert_i32x4_s(codes0), scale0))
      v128.store(target, f32x4.mul(f32x4.convert_i32x4_s(codes1), scale1), 16)
      target += 32
    }
    weights += 144
  }
}

// @ts-ignore: decorator
@inline
function storePair(codes: v128, scale: v128, target: usize): void {
  v128.store(target, f32x4.mul(f32x4.convert_i32x4_s(i32x4.shr_s(i32x4.shl(codes, 16), 16)), scale))
  v128.store(target, f32x4.mul(f32x4.convert_i32x4_s(i32x4.shr_s(codes, 16)), scale), 32)
}

/** blocks of 32. */
export function unpackQ80(weights: usize, blocks: i32, target: usize): void {
  for (let block = 0; block < blocks; block++) {
    const meta = v128.load(weights)
    const scale0 = lowHalves(meta)
    const scale1 = highHalves(meta)
    for (let v: usize = 0; v < 8; v++) {
      const bytes0 = v128.load(weights + v * 32, 16)
      const bytes1 = v128.load(weights + v * 32, 32)
      storePair(i16x8.extend_low_i8x16_s(bytes0), scale0, target)
      storePair(i16x8.extend_low_i8x16_s(bytes1), scale1, target + 16)
      storePair(i16x8.extend_high_i8x16_s(bytes0), scale0, target + 64)
      storePair(i16x8.extend_high_i8x16_s(bytes1), scale1, target + 80)
      target += 128
    }
    weights += 272
  }
}

/** blocks of 256. */
export function unpackQ6K(weights: usize, blocks: i32, target: usize): void {
  const nibbleMask = i32x4.splat(15)
  const crumbMask = i32x4.splat(0x30)
  const middle = i32x4.splat(32)
  for (let block = 0; block < blocks; block++) {
    const meta = v128.load(weights)
    for (let column = 0; column < 256; column++) {
      const subscales = i16x8.extend_low_i8x16_s(v128.load64_zero(weights + 16 + (column >> 4) * 8))
      const scale0 = f32x4.mul(lowHalves(meta), f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(subscales)))
      const scale1 = f32x4.mul(highHalves(meta), f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(subscales)))
      const part = weights + 144 + (column >> 5) * 192
      const nibbles = part + ((column >> 3) & 3) * 16
      const nibbleShift = ((column & 6) << 1) + ((column & 1) << 4)
      const crumbs = part + 128 + ((column >> 4) & 1) * 16
      const crumbShift = (column & 14) + ((column & 1) << 4)
      const high0 = v128.and(i32x4.shl(i32x4.shr_u(v128.load(crumbs), crumbShift), 4), crumbMask)
      const high1 = v128.and(i32x4.shl(i32x4.shr_u(v128.load(crumbs, 32), crumbShift), 4), crumbMask)
      const codes0 = v128.or(v128.and(i32x4.shr_u(v128.load(nibbles), nibbleShift), nibbleMask), high0)
      const codes1 = v128.or(v128.and(i32x4.shr_u(v128.load(nibbles, 64), nibbleShift), nibbleMask), high1)
      v128.store(target, f32x4.mul(f32x4.convert_i32x4_s(i32x4.sub(codes0, middle)), scale0))
      v128.store(target, f32x4.mul(f32x4.convert_i32x4_s(i32x4.sub(codes1, middle)), scale1), 16)
      target += 32
    }
    weights += 1680
  }
}

/** An odd last column takes only the low halves. */
export function unpackF16(weights: usize, columns: i32, target: usize): void {
  for (let column = 0; column < columns; column += 2) {
    const words0 = v128.load(weights)
    const words1 = v128.load(weights, 16)
    v128.store(target, lowHalves(words0))
    v128.store(target, lowHalves(words1), 16)
    if (column + 1 < columns) {
      v128.store(target, highHalves(words0), 32)
      v128.store(target, highHalves(words1), 48)
    }
    weights += 32
    target += 64
  }
}
