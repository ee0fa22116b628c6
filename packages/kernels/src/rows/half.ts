// IEEE half precision in plain TypeScript: round to nearest even, denormals, infinities and NaN.
const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

/** The largest finite half. */
export const LARGEST_HALF = 65504

/** Nearest half of a number, as 16 bits; ties go to the even one, from 65520 on infinity, NaN becomes 0x7e00. */
export function halfFromFloat(value: number): number {
  float[0] = value
  const word = bits[0] ?? 0
  const sign = (word >>> 16) & 0x8000
  const magnitude = Math.abs(float[0] ?? 0)
  if (Number.isNaN(magnitude)) return sign | 0x7e00
  if (magnitude >= 65520) return sign | 0x7c00
  // The spacing of halves: 2^(exponent - 10), and 2^-24 for denormals.
  const exponent = Math.max(((word >>> 23) & 255) - 127, -14)
  const units = roundHalfEven(magnitude / 2 ** (exponent - 10))
  // `units` counts from zero; 1024 units are one step of the exponent field, so a carry runs into it by itself.
  return sign | (units + (exponent + 14) * 1024)
}

/** Value of a half given as 16 bits. */
export function floatFromHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >>> 10) & 31
  const mantissa = half & 1023
  if (exponent === 31) return mantissa ? NaN : sign * Infinity
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25))
}

/** Nearest integer; halves go to the even one (`Math.round` would go up). */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value)
  const rest = value - floor
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1
  return floor % 2 === 0 ? floor : floor + 1
}
