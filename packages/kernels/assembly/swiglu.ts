// SwiGLU's product, silu(gate) * up with silu(g) = g / (1 + exp(-g)).
import { exp4 } from './math'

// @ts-ignore: decorator
@inline
function siluTimes(gate: v128, up: v128): v128 {
  const sigmoidInverse = f32x4.add(f32x4.splat(1), exp4(f32x4.neg(gate)))
  return f32x4.mul(f32x4.div(gate, sigmoidInverse), up)
}

/** All three point at `size` float32 values; `output` may be one of the inputs. */
export function swiGlu(gate: usize, up: usize, output: usize, size: i32): void {
  const end = <usize>size * 4
  const vectorEnd = end & ~15
  let at: usize = 0
  for (; at < vectorEnd; at += 16) v128.store(output + at, siluTimes(v128.load(gate + at), v128.load(up + at)))
  for (; at < end; at += 4) f32.store(output + at, f32x4.extract_lane(siluTimes(v128.load32_splat(gate + at), v128.load32_splat(up + at)), 0))
}
