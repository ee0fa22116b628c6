// Key rows stored before the rotary embedding, rotated by their own positions tile by tile; and affine lines turned to rows for it.
import { Call } from './attention-call'
import { rotateRow } from './rope'
import { storeTransposed } from './transpose'

/** Rows at `from` (`stride` bytes apart) to `to` (`padded` floats apart), rotated by the positions of key rows start..start+count. May work in place. */
export function rotateRows(call: Call, head: i32, start: i32, count: i32, from: usize, stride: usize, to: usize, padded: i32): void {
  const rowBytes = <usize>padded * 4
  const pairBytes = <usize>call.pairs * 4
  // A copy of nothing costs a call too.
  const rest = rowBytes - 2 * pairBytes
  let at = <usize>call.positions + (<usize>head * call.positionHead + start) * 4
  for (let row = 0; row < count; row++, at += 4, from += stride, to += rowBytes) {
    const position = load<u32>(at)
    if (from != to && rest) memory.copy(to + 2 * pairBytes, from + 2 * pairBytes, rest)
    if (position >= <u32>call.maxPositions) {
      call.wrongPosition = 1
      continue
    }
    const table = <usize>position * pairBytes
    rotateRow(from, <usize>call.cos + table, <usize>call.sin + table, to, pairBytes, 1)
  }
}

/** Lines [dim][width], width a multiple of four, to rows [count][padded]; rows past `count` up to the next four are written too. */
export function linesToRows(lines: usize, width: i32, dim: i32, count: i32, padded: i32, to: usize): void {
  const lineBytes = <usize>width * 4
  const rowBytes = <usize>padded * 4
  for (let channel = 0; channel < padded; channel += 4) {
    const a = lines + <usize>channel * lineBytes
    for (let row = 0; row < count; row += 4) {
      const at = a + <usize>row * 4
      const zero = f32x4.splat(0)
      const b = channel + 1 < dim ? v128.load(at + lineBytes) : zero
      const c = channel + 2 < dim ? v128.load(at + 2 * lineBytes) : zero
      const d = channel + 3 < dim ? v128.load(at + 3 * lineBytes) : zero
      storeTransposed(to + <usize>row * rowBytes + <usize>channel * 4, rowBytes, v128.load(at), b, c, d)
    }
  }
}
