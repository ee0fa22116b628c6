// Rows whose pieces are multiplied by the matrix of their block, x = (s y) M. Queries multiplied by M transposed read them as s y, and weighted sums of s y
// become sums of x by M: once for a tile and query row instead of once for every row.
import { MAP_AT, Segment } from './attention-call'
import { halfValue, unpackHalves } from './half'

/** Floats of the largest map. */
const MOST: usize = 64 * 64

/** True when rows row..row+count (of the page) have one map. */
// @ts-ignore: decorator
@inline
export function oneMap(segment: Segment, row: i32, count: i32): bool {
  return row / segment.block == (row + count - 1) / segment.block
}

/** s of row `row` of the page. */
export function scaleOfRow(segment: Segment, head: i32, row: i32): f32 {
  const line = <usize>segment.metadata + <usize>head * segment.metadataHead + <usize>(row / segment.block) * segment.metadataLine
  const at = <usize>(row % segment.block)
  return segment.wide ? load<f32>(line + (at << 2)) : halfValue(<u32>load<u16>(line + (at << 1)))
}

/** The map of row `row` of the page, or with `turned` its transpose, f32 [piece][piece], in the look-up, unless it is there already. */
function mapOf(segment: Segment, head: i32, row: i32, turned: bool, lookup: usize): usize {
  const from = <usize>segment.maps + <usize>head * segment.mapsHead + <usize>(row / segment.block) * segment.mapsLine
  const made = lookup + MAP_AT
  const map = made + 16
  // Words begin at multiples of four.
  const mark = <u32>from | (turned ? 1 : 0)
  if (load<u32>(made) == mark) return map
  store<u32>(made, mark)
  const piece = <i32>segment.rangesLine
  if (segment.wide) memory.copy(map, from, <usize>(piece * piece) * 4)
  else unpackHalves(from, map, piece * piece)
  if (!turned) return map
  for (let i = 0; i < piece; i++) {
    for (let j = 0; j < i; j++) {
      const a = map + <usize>(i * piece + j) * 4, b = map + <usize>(j * piece + i) * 4
      const x = load<f32>(a)
      store<f32>(a, load<f32>(b))
      store<f32>(b, x)
    }
  }
  return map
}

/** to[j] = (or, with `add`, +=) sum over i of x[i] map[i][j], in the order of i, for every piece of `dim` channels. */
function multiplyPieces(x: usize, map: usize, piece: i32, dim: i32, to: usize, add: bool): void {
  const line = <usize>piece * 4
  const zero = f32x4.splat(0)
  for (const end = x + <usize>dim * 4; x < end; x += line, to += line) {
    let j: usize = 0
    for (; j + 64 <= line; j += 64) {
      let a = add ? v128.load(to + j) : zero, b = add ? v128.load(to + j, 16) : zero
      let c = add ? v128.load(to + j, 32) : zero, d = add ? v128.load(to + j, 48) : zero
      let row = map + j
      for (let i: usize = 0; i < line; i += 4, row += line) {
        const y = v128.load32_splat(x + i)
        a = f32x4.add(a, f32x4.mul(y, v128.load(row)))
        b = f32x4.add(b, f32x4.mul(y, v128.load(row, 16)))
        c = f32x4.add(c, f32x4.mul(y, v128.load(row, 32)))
        d = f32x4.add(d, f32x4.mul(y, v128.load(row, 48)))
      }
      v128.store(to + j, a)
      v128.store(to + j, b, 16)
      v128.store(to + j, c, 32)
      v128.store(to + j, d, 48)
    }
    for (; j < line; j += 4) {
      let sum: f32 = add ? load<f32>(to + j) : 0
      let row = map + j
      for (let i: usize = 0; i < line; i += 4, row += line) sum += load<f32>(x + i) * load<f32>(row)
      store<f32>(to + j, sum)
    }
  }
}

/** The row at `to`, s y of row `row` of the page, to x. */
export function mapRow(segment: Segment, head: i32, row: i32, dim: i32, to: usize, lookup: usize): void {
  const map = mapOf(segment, head, row, false, lookup)
  const piece = <i32>segment.rangesLine
  const given = map + MOST * 4
  for (const end = to + <usize>dim * 4; to < end; to += <usize>piece * 4) {
    memory.copy(given, to, <usize>piece * 4)
    multiplyPieces(given, map, piece, piece, to, false)
  }
}

/** Query rows first..rows at `queries` ([padded] floats each) for rows with the map of row `row` of the page, at `to`. */
export function mapQueries(segment: Segment, head: i32, row: i32, queries: usize, first: i32, rows: i32, dim: i32, padded: i32, to: usize, lookup: usize): void {
  const map = mapOf(segment, head, row, true, lookup)
  const stride = <usize>padded * 4
  for (let m = first; m < rows; m++) {
    const line = to + <usize>m * stride
    multiplyPieces(queries + <usize>m * stride, map, segment.rangesLine, dim, line, false)
    for (let k = dim; k < padded; k++) store<f32>(line + <usize>k * 4, 0)
  }
}

/** Adds sums of s y of rows with the map of row `row` of the page to sums of x, `stride` bytes a query row, for first..rows. */
export function addMapped(segment: Segment, head: i32, row: i32, sums: usize, first: i32, rows: i32, dim: i32, output: usize, stride: usize, lookup: usize): void {
  const map = mapOf(segment, head, row, false, lookup)
  for (let m = first; m < rows; m++) multiplyPieces(sums + <usize>m * stride, map, segment.rangesLine, dim, output + <usize>m * stride, true)
}
