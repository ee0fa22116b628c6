// Matrix times vector for signed 8-bit codes in blocks of 32: w = scale * code.
// Panel of 8 rows, per block: 4 words (word r = scale r | scale r+4 << 16), then for each 4 columns one vector of rows
// 0-3 and one of rows 4-7; bytes of a vector: columns 0, 1 of rows 0..3, then columns 2, 3 of rows 0..3.
import { activationBlockBytes } from './layout'
import { highHalves, lowHalves } from './half-words'
import { touch } from './touch'

// @ts-ignore: decorator
@inline
function panel(weights: usize, prepared: usize, blocks: i32, target: usize): void {
  let sum0 = f32x4.splat(0)
  let sum1 = f32x4.splat(0)
  for (let block = 0; block < blocks; block++) {
    let high0 = i32x4.splat(0)
    let high1 = i32x4.splat(0)
    let low0 = i32x4.splat(0)
    let low1 = i32x4.splat(0)
    for (let v: usize = 0; v < 8; v++) {
      const bytes0 = v128.load(weights + v * 32, 16)
      const bytes1 = v128.load(weights + v * 32, 32)
      const pairs = prepared + v * 16

      let codes0 = i16x8.extend_low_i8x16_s(bytes0)
      let codes1 = i16x8.extend_low_i8x16_s(bytes1)
      let high = v128.load32_splat(pairs)
      let low = v128.load32_splat(pairs, 4)
      high0 = i32x4.add(high0, i32x4.dot_i16x8_s(codes0, high))
      high1 = i32x4.add(high1, i32x4.dot_i16x8_s(codes1, high))
      low0 = i32x4.add(low0, i32x4.dot_i16x8_s(codes0, low))
      low1 = i32x4.add(low1, i32x4.dot_i16x8_s(codes1, low))

      codes0 = i16x8.extend_high_i8x16_s(bytes0)
      codes1 = i16x8.extend_high_i8x16_s(bytes1)
      high = v128.load32_splat(pairs, 8)
      low = v128.load32_splat(pairs, 12)
      high0 = i32x4.add(high0, i32x4.dot_i16x8_s(codes0, high))
      high1 = i32x4.add(high1, i32x4.dot_i16x8_s(codes1, high))
      low0 = i32x4.add(low0, i32x4.dot_i16x8_s(codes0, low))
      low1 = i32x4.add(low1, i32x4.dot_i16x8_s(codes1, low))
    }
    const unit = v128.load32_splat(prepared, 128)
    const highUnit = f32x4.mul(unit, f32x4.splat(32768))
    const scales = v128.load(weights)
    const dot0 = f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(high0), highUnit), f32x4.mul(f32x4.convert_i32x4_s(low0), unit))
    const dot1 = f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(high1), highUnit), f32x4.mul(f32x4.convert_i32x4_s(low1), unit))
    sum0 = f32x4.add(sum0, f32x4.mul(lowHalves(scales), dot0))
    sum1 = f32x4.add(sum1, f32x4.mul(highHalves(scales), dot1))
    weights += 272
    prepared += activationBlockBytes
  }
  v128.store(target, sum0)
  v128.store(target, sum1, 16)
}

/** output: panels * 8 float32. */
export function matvecQ80(weights: usize, prepared: usize, blocks: i32, panels: i32, output: usize): void {
  const bytes = <usize>blocks * 272
  for (let i = 0; i < panels; i++, weights += bytes, output += 32) {
    touch(weights, bytes)
    panel(weights, prepared, blocks, output)
  }
}
