// Halves (IEEE binary16) packed two in a word, expanded to float32 without tables. Exact for every finite half;
// the exponent is shifted in place and the bias corrected by one multiplication, which also handles subnormals
// (a vector that holds one costs about 150 cycles instead of 2; weights have few).

/** Value 2^112: the difference of the two exponent biases. */
// @ts-ignore: decorator
@inline
function rebias(bits: v128): v128 {
  return f32x4.mul(v128.and(bits, i32x4.splat(0x8fffe000)), f32x4.splat(5.192296858534828e33))
}

/** Low halves of four words. */
// @ts-ignore: decorator
@inline
export function lowHalves(words: v128): v128 {
  return rebias(i32x4.shr_s(i32x4.shl(words, 16), 3))
}

/** High halves of four words. */
// @ts-ignore: decorator
@inline
export function highHalves(words: v128): v128 {
  return rebias(i32x4.shr_s(words, 3))
}
