// Matrix times vector for float weights. Panel of 8 rows: float32 [columns][8 rows]; halves: words [column pairs][8 rows],
// the even column in the low half; an odd last column has zeros beside it.
import { highHalves, lowHalves } from './half-words'

/** output: panels * 8 float32. */
export function matvecF32(weights: usize, x: usize, columns: i32, panels: i32, output: usize): void {
  const even = columns & ~1
  for (let i = 0; i < panels; i++) {
    let sum0 = f32x4.splat(0)
    let sum1 = f32x4.splat(0)
    let odd0 = f32x4.splat(0)
    let odd1 = f32x4.splat(0)
    let column = x
    for (let k = 0; k < even; k += 2) {
      const a = v128.load32_splat(column)
      sum0 = f32x4.add(sum0, f32x4.mul(v128.load(weights), a))
      sum1 = f32x4.add(sum1, f32x4.mul(v128.load(weights, 16), a))
      const b = v128.load32_splat(column, 4)
      odd0 = f32x4.add(odd0, f32x4.mul(v128.load(weights, 32), b))
      odd1 = f32x4.add(odd1, f32x4.mul(v128.load(weights, 48), b))
      weights += 64
      column += 8
    }
    if (even < columns) {
      const a = v128.load32_splat(column)
      sum0 = f32x4.add(sum0, f32x4.mul(v128.load(weights), a))
      sum1 = f32x4.add(sum1, f32x4.mul(v128.load(weights, 16), a))
      weights += 32
    }
    v128.store(output, f32x4.add(sum0, odd0))
    v128.store(output, f32x4.add(sum1, odd1), 16)
    output += 32
  }
}

/** output: panels * 8 float32. */
export function matvecF16(weights: usize, x: usize, columns: i32, panels: i32, output: usize): void {
  const pairs = columns >> 1
  for (let i = 0; i < panels; i++) {
    let sum0 = f32x4.splat(0)
    let sum1 = f32x4.splat(0)
    let odd0 = f32x4.splat(0)
    let odd1 = f32x4.splat(0)
    let column = x
    for (let k = 0; k < pairs; k++) {
      const words0 = v128.load(weights)
      const words1 = v128.load(weights, 16)
      const a = v128.load32_splat(column)
      const b = v128.load32_splat(column, 4)
      sum0 = f32x4.add(sum0, f32x4.mul(lowHalves(words0), a))
      sum1 = f32x4.add(sum1, f32x4.mul(lowHalves(words1), a))
      odd0 = f32x4.add(odd0, f32x4.mul(highHalves(words0), b))
      odd1 = f32x4.add(odd1, f32x4.mul(highHalves(words1), b))
      weights += 32
      column += 8
    }
    if (columns & 1) {
      const a = v128.load32_splat(column)
      sum0 = f32x4.add(sum0, f32x4.mul(lowHalves(v128.load(weights)), a))
      sum1 = f32x4.add(sum1, f32x4.mul(lowHalves(v128.load(weights, 16)), a))
      weights += 32
    }
    v128.store(output, f32x4.add(sum0, odd0))
    v128.store(output, f32x4.add(sum1, odd1), 16)
    output += 32
  }
}
