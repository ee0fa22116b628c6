// What a codebook row has beside its entries: range and offset, of the row or of each channel, and exact numbers that stand in place of what codes say.
import { Segment } from './attention-call'
import { halfValue } from './half'

/** Ranges of the channels of a head; their offsets are `rangesLine` bytes on. */
export function rangesOf(segment: Segment, head: i32, dim: i32): usize {
  return <usize>segment.ranges + <usize>head * (segment.merged ? <usize>dim * 4 : 2 * <usize>segment.rangesLine)
}

// @ts-ignore: decorator
@inline
function pairOf(segment: Segment, head: i32, row: i32): usize {
  return <usize>segment.metadata + <usize>head * segment.metadataHead + <usize>row * segment.metadataLine
}

/** Range of row `row` of the page. */
// @ts-ignore: decorator
@inline
export function rangeOfRow(segment: Segment, head: i32, row: i32): f32 {
  const pair = pairOf(segment, head, row)
  return segment.wide ? load<f32>(pair) : halfValue(<u32>load<u16>(pair))
}

/** Offset of row `row` of the page. */
// @ts-ignore: decorator
@inline
export function offsetOfRow(segment: Segment, head: i32, row: i32): f32 {
  const pair = pairOf(segment, head, row)
  return segment.wide ? load<f32>(pair, 4) : halfValue(<u32>load<u16>(pair, 2))
}

/** The row at `to` of row `row` of the page, `dim` channels of head `head`: y * range + offset, two f32 operations. */
export function moveRow(segment: Segment, head: i32, row: i32, dim: i32, to: usize): void {
  const bytes = <usize>dim * 4
  let k: usize = 0
  if (segment.ranged == 2) {
    const ranges = rangesOf(segment, head, dim)
    const offsets = ranges + segment.rangesLine
    for (; k + 16 <= bytes; k += 16) v128.store(to + k, f32x4.add(f32x4.mul(v128.load(to + k), v128.load(ranges + k)), v128.load(offsets + k)))
    for (; k < bytes; k += 4) store<f32>(to + k, load<f32>(to + k) * load<f32>(ranges + k) + load<f32>(offsets + k))
    return
  }
  const range = rangeOfRow(segment, head, row), offset = offsetOfRow(segment, head, row)
  const ranges = f32x4.splat(range), offsets = f32x4.splat(offset)
  for (; k + 16 <= bytes; k += 16) v128.store(to + k, f32x4.add(f32x4.mul(v128.load(to + k), ranges), offsets))
  for (; k < bytes; k += 4) store<f32>(to + k, load<f32>(to + k) * range + offset)
}

/** Puts the exact numbers of row `row` of the page into the row at `to`. Places rise, and the last stand for none, so the first beyond the head ends them. */
export function placeOutliers(segment: Segment, head: i32, row: i32, dim: i32, to: usize): void {
  const line = <usize>(segment.merged ? row : head * (segment.dataHead / segment.dataLine) + row)
  const places = <usize>segment.places + line * segment.placesLine
  const numbers = <usize>segment.outliers + line * segment.outliersLine
  const first = segment.merged ? head * dim : 0
  const room = segment.room
  const bytes = segment.placeBytes == 1
  for (let slot: usize = 0; slot < <usize>room; slot++) {
    const channel = (bytes ? <i32>load<u8>(places + slot) : <i32>load<u16>(places + (slot << 1))) - first
    if (channel >= dim) return
    if (channel < 0) continue
    store<f32>(to + <usize>channel * 4, segment.wide ? load<f32>(numbers + (slot << 2)) : halfValue(<u32>load<u16>(numbers + (slot << 1))))
  }
}
