// Exact rows of a page, as f32 or as words of two halves; and bit copies of rows of any 32-bit tensor.
import { packHalves, unpackHalves } from './half'

/** page [heads, capacity, width words], rows f32 [heads, sourceRows, dim]: rows from.. of the source to rows at.. of the page. `half`: 1 stores two halves a word. */
export function writeRows(page: usize, capacity: i32, at: i32, rows: usize, sourceRows: i32, from: i32, count: i32, heads: i32, dim: i32, half: i32): void {
  const width = half ? (dim + 1) >> 1 : dim
  for (let head = 0; head < heads; head++) {
    let target = page + (<usize>head * capacity + at) * width * 4
    let source = rows + (<usize>head * sourceRows + from) * dim * 4
    if (!half) {
      memory.copy(target, source, <usize>count * dim * 4)
      continue
    }
    for (let row = 0; row < count; row++, target += <usize>width * 4, source += <usize>dim * 4) packHalves(source, target, dim)
  }
}

/** The reverse of `writeRows`: output f32 [heads, count, dim]. */
export function readRows(page: usize, capacity: i32, from: i32, count: i32, output: usize, heads: i32, dim: i32, half: i32): void {
  const width = half ? (dim + 1) >> 1 : dim
  for (let head = 0; head < heads; head++) {
    let source = page + (<usize>head * capacity + from) * width * 4
    let target = output + <usize>head * count * dim * 4
    if (!half) {
      memory.copy(target, source, <usize>count * dim * 4)
      continue
    }
    for (let row = 0; row < count; row++, target += <usize>dim * 4, source += <usize>width * 4) unpackHalves(source, target, dim)
  }
}

/** target [heads, capacity, width], source [heads, sourceRows, width]: copies `count` rows bit for bit. */
export function copyRows(target: usize, capacity: i32, at: i32, source: usize, sourceRows: i32, from: i32, count: i32, heads: i32, width: i32): void {
  for (let head = 0; head < heads; head++) {
    memory.copy(target + (<usize>head * capacity + at) * width * 4, source + (<usize>head * sourceRows + from) * width * 4, <usize>count * width * 4)
  }
}

/**
 * pages: `pageCount` records of four int32 (address, capacity, first used row, used rows); index int32 [heads, count] over the concatenated used rows.
 * Returns the number of indices out of range (their rows are left as zeros).
 */
export function gatherRows(pages: usize, pageCount: i32, index: usize, count: i32, output: usize, capacity: i32, heads: i32, width: i32): i32 {
  let wrong = 0
  const bytes = <usize>width * 4
  memory.fill(output, 0, <usize>heads * capacity * bytes)
  for (let head = 0; head < heads; head++) {
    for (let row = 0; row < count; row++) {
      let number = load<i32>(index + (<usize>head * count + row) * 4)
      let page = pages
      const end = pages + <usize>pageCount * 16
      while (page < end && number >= load<i32>(page, 12)) {
        number -= load<i32>(page, 12)
        page += 16
      }
      if (number < 0 || page >= end) {
        wrong++
        continue
      }
      const source = <usize>load<u32>(page) + (<usize>head * load<i32>(page, 4) + load<i32>(page, 8) + number) * bytes
      memory.copy(output + (<usize>head * capacity + row) * bytes, source, bytes)
    }
  }
  return wrong
}
