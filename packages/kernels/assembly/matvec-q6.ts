// Matrix times vector for 6-bit codes in blocks of 256 (GGUF's Q6_K): w = scale * subscale * (code - 32), one 8-bit
// subscale per 16 columns. Panel of 8 rows, per block of 256, 1680 bytes: 4 words of scales (r | r+4 << 16); subscales
// i8 [16][8 rows]; then per 32 columns 128 bytes of low nibbles as in matvec-q4, and 64 bytes of high two-bit parts:
// 2 vectors of rows 0-3, 2 of rows 4-7, one per 16 columns; word r: even columns in bits 0-15, odd ones in 16-31.
import { activationBlockBytes } from './layout'
import { highHalves, lowHalves } from './half-words'
import { touch } from './touch'

/** Codes of pair `pair` (0..7) of 16 columns, four rows: nibble words of columns 0-7 and 8-15, two-bit words of all. */
// @ts-ignore: decorator
@inline
function codesOf(nibbles: v128, nibbleShift: i32, crumbs: v128, pair: i32): v128 {
  const low = v128.and(i16x8.shr_u(nibbles, nibbleShift), i16x8.splat(15))
  const top = pair < 2 ? i16x8.shl(crumbs, 4 - 2 * pair) : i16x8.shr_u(crumbs, 2 * pair - 4)
  return v128.or(low, v128.and(top, i16x8.splat(0x30)))
}

/** Dot products of 16 columns and four rows with the codes, less 32 times the sum of the activations. */
// @ts-ignore: decorator
@inline
function dot16(nibbles: usize, crumbs: v128, pairs: usize, unit: v128, highUnit: v128, total: v128): v128 {
  const first = v128.load(nibbles)
  const second = v128.load(nibbles, 16)
  let codes = codesOf(first, 0, crumbs, 0)
  let high = i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs))
  let low = i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 4))
  codes = codesOf(first, 4, crumbs, 1)
  high = i32x4.add(high, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 8)))
  low = i32x4.add(low, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 12)))
  codes = codesOf(first, 8, crumbs, 2)
  high = i32x4.add(high, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 16)))
  low = i32x4.add(low, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 20)))
  codes = codesOf(first, 12, crumbs, 3)
  high = i32x4.add(high, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 24)))
  low = i32x4.add(low, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 28)))
  codes = codesOf(second, 0, crumbs, 4)
  high = i32x4.add(high, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 32)))
  low = i32x4.add(low, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 36)))
  codes = codesOf(second, 4, crumbs, 5)
  high = i32x4.add(high, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 40)))
  low = i32x4.add(low, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 44)))
  codes = codesOf(second, 8, crumbs, 6)
  high = i32x4.add(high, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 48)))
  low = i32x4.add(low, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 52)))
  codes = codesOf(second, 12, crumbs, 7)
  high = i32x4.add(high, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 56)))
  low = i32x4.add(low, i32x4.dot_i16x8_s(codes, v128.load32_splat(pairs, 60)))
  const dot = f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(high), highUnit), f32x4.mul(f32x4.convert_i32x4_s(low), unit))
  return f32x4.sub(dot, f32x4.mul(total, f32x4.splat(32)))
}

// @ts-ignore: decorator
@inline
function panel(weights: usize, prepared: usize, blocks: i32, target: usize): void {
  let sum0 = f32x4.splat(0)
  let sum1 = f32x4.splat(0)
  for (let block = 0; block < blocks; block++) {
    let scaled0 = f32x4.splat(0)
    let scaled1 = f32x4.splat(0)
    let subscales = weights + 16
    let codes = weights + 144
    for (let part = 0; part < 8; part++) {
      const unit = v128.load32_splat(prepared, 128)
      const highUnit = f32x4.mul(unit, f32x4.splat(32768))
      for (let half: usize = 0; half < 2; half++) {
        const total = v128.load32_splat(prepared + half * 4, 136)
        const scales = i16x8.extend_low_i8x16_s(v128.load64_zero(subscales + half * 8))
        const pairs = prepared + half * 64
        const dot0 = dot16(codes + half * 32, v128.load(codes + half * 16, 128), pairs, unit, highUnit, total)
        const dot1 = dot16(codes + half * 32 + 64, v128.load(codes + half * 16, 160), pairs, unit, highUnit, total)
        scaled0 = f32x4.add(scaled0, f32x4.mul(dot0, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(scales))))
        scaled1 = f32x4.add(scaled1, f32x4.mul(dot1, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(scales))))
      }
      subscales += 16
      codes += 192
      prepared += activationBlockBytes
    }
    const scales = v128.load(weights)
    sum0 = f32x4.add(sum0, f32x4.mul(scaled0, lowHalves(scales)))
    sum1 = f32x4.add(sum1, f32x4.mul(scaled1, highHalves(scales)))
    weights += 1680
  }
  v128.store(target, sum0)
  v128.store(target, sum1, 16)
}

/** blocks: of 256 columns; output: panels * 8 float32. */
export function matvecQ6K(weights: usize, prepared: usize, blocks: i32, panels: i32, output: usize): void {
  const bytes = <usize>blocks * 1680
  for (let i = 0; i < panels; i++, weights += bytes, output += 32) {
    touch(weights, bytes)
    panel(weights, prepared, blocks, output)
  }
}
