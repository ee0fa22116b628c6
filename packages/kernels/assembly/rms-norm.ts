// Root-mean-square normalisation: y = x / sqrt(mean(x^2) + epsilon) * weight, per row.
import { sum4 } from './math'

/** x, output: [rows, width] float32; weight: [width]. */
export function rmsNorm(x: usize, weight: usize, output: usize, rows: i32, width: i32, epsilon: f32): void {
  const end = <usize>width * 4
  const vectorEnd = end & ~15
  for (let row = 0; row < rows; row++) {
    let squares = f32x4.splat(0)
    let at: usize = 0
    for (; at < vectorEnd; at += 16) {
      const values = v128.load(x + at)
      squares = f32x4.add(squares, f32x4.mul(values, values))
    }
    let sum = sum4(squares)
    for (; at < end; at += 4) sum += f32.load(x + at) * f32.load(x + at)
    const scale: f32 = 1 / sqrt<f32>(sum / <f32>width + epsilon)
    const scales = f32x4.splat(scale)
    for (at = 0; at < vectorEnd; at += 16) v128.store(output + at, f32x4.mul(f32x4.mul(v128.load(x + at), scales), v128.load(weight + at)))
    for (; at < end; at += 4) f32.store(output + at, f32.load(x + at) * scale * f32.load(weight + at))
    x += end
    output += end
  }
}
