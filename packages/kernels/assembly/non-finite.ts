/** 1 when a value of x is NaN or beyond limit in magnitude, else 0. */
export function anyBeyond(x: usize, size: i32, limit: f32): i32 {
  const sign = i32x4.splat(0x7fffffff)
  const limits = f32x4.splat(limit)
  const end = x + <usize>size * 4
  const vectorEnd = x + (<usize>size & ~3) * 4
  let within = i32x4.splat(-1)
  // A comparison with NaN is false, so NaN counts as beyond.
  for (; x < vectorEnd; x += 16) within = v128.and(within, f32x4.le(v128.and(v128.load(x), sign), limits))
  let result = i32x4.all_true(within) ? 0 : 1
  for (; x < end; x += 4) if (!(abs(f32.load(x)) <= limit)) result = 1
  return result
}
