// Activations of a quantized matvec as 31-bit fixed-point numbers per block of 32, so that products with integer codes
// run on i16 dot products and are exact. The unit is a power of two: nothing is lost but what lies 2^30 below the
// block's largest value, which is finer than float32 sums. (No rounding to 8 bits as in other engines.)
//
// Block, 144 bytes: 16 times (pair of high parts i16 i16, pair of low parts i16 i16); then float32 unit of the low
// parts, sum of all 32, sum of the first 16, sum of the last 16. value = (high * 2^15 + low) * unit.
import { max4, sum4 } from './math'
import { activationBlockBytes } from './layout'

/** x: blocks * 32 float32. A block with a non-finite value gets the unit NaN. */
export function prepareActivations(x: usize, blocks: i32, prepared: usize): void {
  for (let block = 0; block < blocks; block++) {
    let largest = f32x4.splat(0)
    let first = f32x4.splat(0)
    let last = f32x4.splat(0)
    for (let at: usize = 0; at < 64; at += 16) {
      const a = v128.load(x + at)
      const b = v128.load(x + at, 64)
      largest = f32x4.max(largest, f32x4.max(f32x4.abs(a), f32x4.abs(b)))
      first = f32x4.add(first, a)
      last = f32x4.add(last, b)
    }
    const maximum = max4(largest)
    // Below 2^-95 everything counts as 2^-95, so that both powers of two are normal numbers.
    const exponent = max<i32>(reinterpret<i32>(maximum) >>> 23, 32)
    const inverse = f32x4.splat(reinterpret<f32>((283 - exponent) << 23))
    const unit = reinterpret<f32>((exponent - 29) << 23) + (maximum - maximum)
    for (let at: usize = 0; at < 128; at += 32) {
      const a = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(x + at), inverse)))
      const b = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(x + at, 16), inverse)))
      const high = i16x8.narrow_i32x4_s(i32x4.shr_s(a, 15), i32x4.shr_s(b, 15))
      const mask = i32x4.splat(0x7fff)
      const low = i16x8.narrow_i32x4_s(v128.and(a, mask), v128.and(b, mask))
      v128.store(prepared + at, i8x16.shuffle(high, low, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23))
      v128.store(prepared + at, i8x16.shuffle(high, low, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31), 16)
    }
    const sumFirst = sum4(first)
    const sumLast = sum4(last)
    f32.store(prepared, unit, 128)
    f32.store(prepared, sumFirst + sumLast, 132)
    f32.store(prepared, sumFirst, 136)
    f32.store(prepared, sumLast, 140)
    x += 128
    prepared += activationBlockBytes
  }
}
