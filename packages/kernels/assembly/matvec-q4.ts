// Matrix times vector for 4-bit codes in blocks of 32: w = scale * code + offset.
// Panel of 8 rows, per block: scales (q4_1: 8 words, word r = scale r | offset r << 16; q4_0: 4 words, word r =
// scale r | scale r+4 << 16), then 4 vectors of rows 0-3, then 4 of rows 4-7. Word r of vector v holds columns
// 8v..8v+7 of row r: even ones in nibbles 0-3, odd ones in nibbles 4-7, so that an i16 lane pair is a column pair.
import { activationBlockBytes } from './layout'
import { highHalves, lowHalves } from './half-words'
import { touch } from './touch'

// @ts-ignore: decorator
@inline
function dotPair(codes: v128, pair: v128): v128 {
  return i32x4.dot_i16x8_s(codes, pair)
}

// @ts-ignore: decorator
@inline
function panel(weights: usize, prepared: usize, blocks: i32, hasOffset: bool, target: usize): void {
  const scaleBytes: usize = hasOffset ? 32 : 16
  const mask = i16x8.splat(15)
  let sum0 = f32x4.splat(0)
  let sum1 = f32x4.splat(0)
  for (let block = 0; block < blocks; block++) {
    let high0 = i32x4.splat(0)
    let high1 = i32x4.splat(0)
    let low0 = i32x4.splat(0)
    let low1 = i32x4.splat(0)
    const codes = weights + scaleBytes
    for (let v: usize = 0; v < 4; v++) {
      const words0 = v128.load(codes + v * 16)
      const words1 = v128.load(codes + v * 16, 64)
      const pairs = prepared + v * 32

      let codes0 = v128.and(words0, mask)
      let codes1 = v128.and(words1, mask)
      let high = v128.load32_splat(pairs)
      let low = v128.load32_splat(pairs, 4)
      high0 = i32x4.add(high0, dotPair(codes0, high))
      high1 = i32x4.add(high1, dotPair(codes1, high))
      low0 = i32x4.add(low0, dotPair(codes0, low))
      low1 = i32x4.add(low1, dotPair(codes1, low))

      codes0 = v128.and(i16x8.shr_u(words0, 4), mask)
      codes1 = v128.and(i16x8.shr_u(words1, 4), mask)
      high = v128.load32_splat(pairs, 8)
      low = v128.load32_splat(pairs, 12)
      high0 = i32x4.add(high0, dotPair(codes0, high))
      high1 = i32x4.add(high1, dotPair(codes1, high))
      low0 = i32x4.add(low0, dotPair(codes0, low))
      low1 = i32x4.add(low1, dotPair(codes1, low))

      codes0 = v128.and(i16x8.shr_u(words0, 8), mask)
      codes1 = v128.and(i16x8.shr_u(words1, 8), mask)
      high = v128.load32_splat(pairs, 16)
      low = v128.load32_splat(pairs, 20)
      high0 = i32x4.add(high0, dotPair(codes0, high))
      high1 = i32x4.add(high1, dotPair(codes1, high))
      low0 = i32x4.add(low0, dotPair(codes0, low))
      low1 = i32x4.add(low1, dotPair(codes1, low))

      codes0 = i16x8.shr_u(words0, 12)
      codes1 = i16x8.shr_u(words1, 12)
      high = v128.load32_splat(pairs, 24)
      low = v128.load32_splat(pairs, 28)
      high0 = i32x4.add(high0, dotPair(codes0, high))
      high1 = i32x4.add(high1, dotPair(codes1, high))
      low0 = i32x4.add(low0, dotPair(codes0, low))
      low1 = i32x4.add(low1, dotPair(codes1, low))
    }
    const unit = v128.load32_splat(prepared, 128)
    const total = v128.load32_splat(prepared, 132)
    const highUnit = f32x4.mul(unit, f32x4.splat(32768))
    const dot0 = f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(high0), highUnit), f32x4.mul(f32x4.convert_i32x4_s(low0), unit))
    const dot1 = f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(high1), highUnit), f32x4.mul(f32x4.convert_i32x4_s(low1), unit))
    if (hasOffset) {
      const meta0 = v128.load(weights)
      const meta1 = v128.load(weights, 16)
      sum0 = f32x4.add(sum0, f32x4.add(f32x4.mul(lowHalves(meta0), dot0), f32x4.mul(highHalves(meta0), total)))
      sum1 = f32x4.add(sum1, f32x4.add(f32x4.mul(lowHalves(meta1), dot1), f32x4.mul(highHalves(meta1), total)))
    } else {
      const meta = v128.load(weights)
      const shift = f32x4.mul(total, f32x4.splat(8))
      sum0 = f32x4.add(sum0, f32x4.mul(lowHalves(meta), f32x4.sub(dot0, shift)))
      sum1 = f32x4.add(sum1, f32x4.mul(highHalves(meta), f32x4.sub(dot1, shift)))
    }
    weights += scaleBytes + 128
    prepared += activationBlockBytes
  }
  v128.store(target, sum0)
  v128.store(target, sum1, 16)
}

/** output: panels * 8 float32. */
export function matvecQ41(weights: usize, prepared: usize, blocks: i32, panels: i32, output: usize): void {
  const bytes = <usize>blocks * 160
  for (let i = 0; i < panels; i++, weights += bytes, output += 32) {
    touch(weights, bytes)
    panel(weights, prepared, blocks, true, output)
  }
}

/** output: panels * 8 float32. */
export function matvecQ40(weights: usize, prepared: usize, blocks: i32, panels: i32, output: usize): void {
  const bytes = <usize>blocks * 144
  for (let i = 0; i < panels; i++, weights += bytes, output += 32) {
    touch(weights, bytes)
    panel(weights, prepared, blocks, false, output)
  }
}
