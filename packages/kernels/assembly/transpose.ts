// 4 x 4 transposes of f32 lanes, and clearing. Inlined helpers, not exported from the module.

/** Lane j of the four vectors becomes the vector stored at `address + j * stride`. */
// @ts-ignore: decorator
@inline
export function storeTransposed(address: usize, stride: usize, a: v128, b: v128, c: v128, d: v128): void {
  const ab = lowLanes(a, b)
  const cd = lowLanes(c, d)
  const abHigh = highLanes(a, b)
  const cdHigh = highLanes(c, d)
  v128.store(address, lowHalves(ab, cd))
  v128.store(address + stride, highHalves(ab, cd))
  v128.store(address + 2 * stride, lowHalves(abHigh, cdHigh))
  v128.store(address + 3 * stride, highHalves(abHigh, cdHigh))
}

/** Adds lane j of the four vectors to the vector at `address + j * stride`. */
// @ts-ignore: decorator
@inline
export function addTransposed(address: usize, stride: usize, a: v128, b: v128, c: v128, d: v128): void {
  const ab = lowLanes(a, b)
  const cd = lowLanes(c, d)
  const abHigh = highLanes(a, b)
  const cdHigh = highLanes(c, d)
  addTo(address, lowHalves(ab, cd))
  addTo(address + stride, highHalves(ab, cd))
  addTo(address + 2 * stride, lowHalves(abHigh, cdHigh))
  addTo(address + 3 * stride, highHalves(abHigh, cdHigh))
}

/** [sum of a, sum of b, sum of c, sum of d]. */
// @ts-ignore: decorator
@inline
export function sums4(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab = f32x4.add(lowLanes(a, b), highLanes(a, b))
  const cd = f32x4.add(lowLanes(c, d), highLanes(c, d))
  return f32x4.add(lowHalves(ab, cd), highHalves(ab, cd))
}

// @ts-ignore: decorator
@inline
function addTo(address: usize, x: v128): void {
  v128.store(address, f32x4.add(v128.load(address), x))
}

/** [a0, b0, a1, b1] */
// @ts-ignore: decorator
@inline
function lowLanes(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23)
}

/** [a2, b2, a3, b3] */
// @ts-ignore: decorator
@inline
function highLanes(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31)
}

/** [a0, a1, b0, b1] */
// @ts-ignore: decorator
@inline
function lowHalves(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
}

/** [a2, a3, b2, b3] */
// @ts-ignore: decorator
@inline
function highHalves(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
}

/** Zeros `bytes` bytes, a multiple of 16. For short runs: `memory.fill` costs a call out of the module. */
// @ts-ignore: decorator
@inline
export function clear(address: usize, bytes: usize): void {
  for (let at = address; at < address + bytes; at += 16) v128.store(at, i32x4.splat(0))
}
