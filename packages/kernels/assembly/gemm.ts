// x [rows, columns] times one panel float32 [columns][8], tile by tile of 4 rows x 8 outputs, 8 sums in registers.
// Columns go in runs of 512 so that the run of the panel (16 KiB) stays in the first-level cache.

// @ts-ignore: decorator
@inline
const run: i32 = 512

// @ts-ignore: decorator
@inline
function tile4(x: usize, rowBytes: usize, panel: usize, count: i32, target: usize, targetBytes: usize, first: bool): void {
  const target1 = target + targetBytes
  const target2 = target1 + targetBytes
  const target3 = target2 + targetBytes
  const zero = f32x4.splat(0)
  let a0 = first ? zero : v128.load(target)
  let a1 = first ? zero : v128.load(target, 16)
  let b0 = first ? zero : v128.load(target1)
  let b1 = first ? zero : v128.load(target1, 16)
  let c0 = first ? zero : v128.load(target2)
  let c1 = first ? zero : v128.load(target2, 16)
  let d0 = first ? zero : v128.load(target3)
  let d1 = first ? zero : v128.load(target3, 16)
  let x1 = x + rowBytes
  let x2 = x1 + rowBytes
  let x3 = x2 + rowBytes
  const end = x + <usize>count * 4
  for (; x < end; x += 4, x1 += 4, x2 += 4, x3 += 4, panel += 32) {
    const w0 = v128.load(panel)
    const w1 = v128.load(panel, 16)
    const a = v128.load32_splat(x)
    a0 = f32x4.add(a0, f32x4.mul(a, w0))
    a1 = f32x4.add(a1, f32x4.mul(a, w1))
    const b = v128.load32_splat(x1)
    b0 = f32x4.add(b0, f32x4.mul(b, w0))
    b1 = f32x4.add(b1, f32x4.mul(b, w1))
    const c = v128.load32_splat(x2)
    c0 = f32x4.add(c0, f32x4.mul(c, w0))
    c1 = f32x4.add(c1, f32x4.mul(c, w1))
    const d = v128.load32_splat(x3)
    d0 = f32x4.add(d0, f32x4.mul(d, w0))
    d1 = f32x4.add(d1, f32x4.mul(d, w1))
  }
  v128.store(target, a0)
  v128.store(target, a1, 16)
  v128.store(target1, b0)
  v128.store(target1, b1, 16)
  v128.store(target2, c0)
  v128.store(target2, c1, 16)
  v128.store(target3, d0)
  v128.store(target3, d1, 16)
}

// @ts-ignore: decorator
@inline
function tile1(x: usize, panel: usize, count: i32, target: usize, first: bool): void {
  let a0 = first ? f32x4.splat(0) : v128.load(target)
  let a1 = first ? f32x4.splat(0) : v128.load(target, 16)
  const end = x + <usize>count * 4
  for (; x < end; x += 4, panel += 32) {
    const a = v128.load32_splat(x)
    a0 = f32x4.add(a0, f32x4.mul(a, v128.load(panel)))
    a1 = f32x4.add(a1, f32x4.mul(a, v128.load(panel, 16)))
  }
  v128.store(target, a0)
  v128.store(target, a1, 16)
}

/** Writes 8 outputs per row at `target`, rows `targetBytes` apart. */
export function gemmPanel(x: usize, rows: i32, columns: i32, panel: usize, target: usize, targetBytes: usize): void {
  const rowBytes = <usize>columns * 4
  for (let from = 0; from < columns; from += run) {
    const count = min(run, columns - from)
    const runX = x + <usize>from * 4
    const runPanel = panel + <usize>from * 32
    let row = 0
    for (; row + 4 <= rows; row += 4) tile4(runX + <usize>row * rowBytes, rowBytes, runPanel, count, target + <usize>row * targetBytes, targetBytes, from == 0)
    for (; row < rows; row++) tile1(runX + <usize>row * rowBytes, runPanel, count, target + <usize>row * targetBytes, from == 0)
  }
}
