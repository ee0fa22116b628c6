/**
 * Logarithm, exponential and cosine from additions, multiplications and divisions only. `Math.log` and its like may differ in
 * the last bit from one JavaScript engine to another; IEEE 754 fixes these four operations, so these results are the same everywhere.
 */

const bits = new DataView(new ArrayBuffer(8))
const LN2_HIGH = 0.6931471803691238
const LN2_LOW = 1.9082149292705877e-10

/** Natural logarithm of a positive normal number, within 2 units in the last place. Elsewhere what `Math.log` gives. */
export function exactLog(x: number): number {
  if (!(x >= 2.2250738585072014e-308) || x === Number.POSITIVE_INFINITY) return Math.log(x)
  bits.setFloat64(0, x)
  const high = bits.getUint32(0)
  let exponent = (high >>> 20) - 1023
  bits.setUint32(0, (high & 0xfffff) | 0x3ff00000)
  let mantissa = bits.getFloat64(0)
  if (mantissa > Math.SQRT2) {
    mantissa /= 2
    exponent++
  }
  // ln m = 2 artanh((m - 1) / (m + 1)); |s| <= 0.1716, so s^23 is below 1e-17.
  const s = (mantissa - 1) / (mantissa + 1)
  const z = s * s
  let sum = 0
  for (let k = 21; k >= 3; k -= 2) sum = (sum + 1 / k) * z
  return exponent * LN2_HIGH + (2 * s + (2 * s * sum + exponent * LN2_LOW))
}

/** e^x, within 2 units in the last place; 0 below -708, infinity above 709. */
export function exactExp(x: number): number {
  if (Number.isNaN(x)) return x
  if (x < -708) return 0
  if (x > 709) return Number.POSITIVE_INFINITY
  const exponent = Math.round(x * Math.LOG2E)
  const r = x - exponent * LN2_HIGH - exponent * LN2_LOW
  // |r| <= 0.347, so r^15 / 15! is below 1e-19.
  let sum = 1
  for (let k = 14; k >= 1; k--) sum = 1 + (sum * r) / k
  bits.setUint32(0, (exponent + 1023) << 20)
  bits.setUint32(4, 0)
  return sum * bits.getFloat64(0)
}

/** cos(π · numerator / denominator) for integers, denominator > 0: reduced exactly, so that its symmetries hold bit for bit. */
export function cosOfPi(numerator: number, denominator: number): number {
  let m = Math.abs(numerator) % (2 * denominator)
  if (m > denominator) m = 2 * denominator - m
  const sign = 2 * m > denominator ? -1 : 1
  if (sign < 0) m = denominator - m
  if (2 * m === denominator) return 0
  // Now 0 <= m / denominator < 1/2; past 1/4 the sine of the complement is the more precise.
  const complement = 4 * m > denominator
  const x = complement ? (Math.PI * (denominator - 2 * m)) / (2 * denominator) : (Math.PI * m) / denominator
  const z = x * x
  let sum = 1
  for (let k = complement ? 19 : 18; k >= 2; k -= 2) sum = 1 - (sum * z) / (k * (k - 1))
  return sign * (complement ? x * sum : sum)
}
