// Exponential and logarithm of the softmax. Inlined helpers, not exported from the module.

/** Four exponentials of x <= 0 (a little above is fine), relative error below 2e-7; exactly 0 below -87.3 and for -infinity; NaN stays NaN. */
// @ts-ignore: decorator
@inline
export function expBelowZero(x: v128): v128 {
  const low = f32x4.splat(-87.3)
  const clamped = f32x4.pmax(x, low)
  // Adding 1.5 * 2^23 rounds to an integer and leaves that integer in the low mantissa bits.
  const magic = f32x4.splat(12582912)
  const shifted = f32x4.add(f32x4.mul(clamped, f32x4.splat(1.44269504)), magic)
  const n = f32x4.sub(shifted, magic)
  let r = f32x4.sub(clamped, f32x4.mul(n, f32x4.splat(0.693359375)))
  r = f32x4.sub(r, f32x4.mul(n, f32x4.splat(-2.12194440e-4)))
  let p = f32x4.splat(1.9875691500e-4)
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.3981999507e-3))
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(8.3334519073e-3))
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(4.1665795894e-2))
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.6666665459e-1))
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(5.0000001201e-1))
  p = f32x4.add(f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), r), f32x4.splat(1))
  const power = i32x4.shl(i32x4.add(shifted, i32x4.splat(127)), 23)
  return v128.andnot(f32x4.mul(p, power), f32x4.lt(x, low))
}

/** Natural logarithm of a positive normal number, relative error about 1e-7 (Cephes logf). */
export function logOf(x: f32): f32 {
  const bits = reinterpret<u32>(x)
  let exponent = <f32>(<i32>((bits >> 23) & 255) - 126)
  let m = reinterpret<f32>((bits & 0x007fffff) | 0x3f000000)
  if (m < <f32>0.70710678) {
    exponent -= 1
    m = m + m - 1
  } else m -= 1
  const z = m * m
  let p: f32 = 7.0376836292e-2
  p = p * m - <f32>1.1514610310e-1
  p = p * m + <f32>1.1676998740e-1
  p = p * m - <f32>1.2420140846e-1
  p = p * m + <f32>1.4249322787e-1
  p = p * m - <f32>1.6668057665e-1
  p = p * m + <f32>2.0000714765e-1
  p = p * m - <f32>2.4999993993e-1
  p = p * m + <f32>3.3333331174e-1
  p = p * m * z
  p += exponent * <f32>-2.12194440e-4
  p -= <f32>0.5 * z
  return m + p + exponent * <f32>0.693359375
}
