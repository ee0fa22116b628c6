// Moves between [outer, inner, dim] and [inner, outer, dim]: heads beside each other, or one after the other.

/** Words; x: [outer, inner, dim], output: [inner, outer, dim]. */
export function swapOuter(x: usize, output: usize, outer: i32, inner: i32, dim: i32): void {
  const rowBytes = <usize>dim * 4
  const vectorEnd = rowBytes & ~15
  const stride = <usize>outer * rowBytes
  for (let i = 0; i < outer; i++) {
    let target = output + <usize>i * rowBytes
    for (let j = 0; j < inner; j++) {
      let at: usize = 0
      for (; at < vectorEnd; at += 16) v128.store(target + at, v128.load(x + at))
      for (; at < rowBytes; at += 4) i32.store(target + at, i32.load(x + at))
      x += rowBytes
      target += stride
    }
  }
}
