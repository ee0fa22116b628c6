// Rows of segments as f32: all of them one after the other, or those of a list.
import { decodeLine } from './affine'
import { Kind, Segment, clearLookup, pageHead, segmentAt } from './attention-call'
import { decodeCodeRows } from './codebook-rows'
import { unpackHalves } from './half'

/** Tokens of codes along tokens that are decoded at a time. */
const TOKENS: i32 = 64

/** Copies `floats` floats. Rows are short: a bulk copy costs a call each. */
// @ts-ignore: decorator
@inline
function copyFloats(from: usize, to: usize, floats: i32): void {
  let k: usize = 0
  const bytes = <usize>floats * 4
  for (; k + 16 <= bytes; k += 16) v128.store(to + k, v128.load(from + k))
  for (; k < bytes; k += 4) store<f32>(to + k, load<f32>(from + k))
}

/** Rows at..at+count of a segment, of head `head` of its page, to `to`, `stride` bytes apart. lookup: LOOKUP_BYTES; scratch: TOKENS floats. */
export function decodeSegment(segment: Segment, head: i32, at: i32, count: i32, dim: i32, to: usize, stride: usize, lookup: usize, scratch: usize): void {
  const row = segment.from + at
  if (segment.kind == Kind.codebook) {
    decodeCodeRows(segment, head, row, count, dim, to, stride, lookup, true)
    return
  }
  let data = <usize>segment.data + <usize>head * segment.dataHead
  let metadata = <usize>segment.metadata + <usize>head * segment.metadataHead
  if (segment.kind == Kind.tokens) {
    for (let channel = 0; channel < dim; channel++, data += segment.dataLine, metadata += segment.metadataLine) {
      let target = to + <usize>channel * 4
      for (let start = 0; start < count; start += TOKENS) {
        const size = min(TOKENS, count - start)
        decodeLine(data, metadata, segment.wide, segment.bits, segment.group, row + start, size, scratch)
        for (let i: usize = 0; i < <usize>size * 4; i += 4, target += stride) store<f32>(target, load<f32>(scratch + i))
      }
    }
    return
  }
  data += <usize>row * segment.dataLine
  metadata += <usize>row * segment.metadataLine
  if (segment.kind == Kind.f32 && stride == <usize>segment.dataLine && count > 4) {
    memory.copy(to, data, <usize>count * stride)
    return
  }
  for (let i = 0; i < count; i++, data += segment.dataLine, metadata += segment.metadataLine, to += stride) {
    if (segment.kind == Kind.f32) copyFloats(data, to, dim)
    else if (segment.kind == Kind.f16) unpackHalves(data, to, dim)
    else decodeLine(data, metadata, segment.wide, segment.bits, segment.group, 0, dim, to)
  }
}

/** All rows of `count` segments, `total` in all, to output f32 [heads, total, dim]. lookup: LOOKUP_BYTES; scratch: TOKENS floats. */
export function readSegments(segments: usize, count: i32, heads: i32, total: i32, dim: i32, output: usize, lookup: usize, scratch: usize): void {
  const stride = <usize>dim * 4
  clearLookup(lookup)
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < count; i++) {
      const segment = segmentAt(segments, i)
      decodeSegment(segment, pageHead(segment, head), 0, segment.rows, dim, output, stride, lookup, scratch)
      output += <usize>segment.rows * stride
    }
  }
}
