// Pages of exact rows, and bit copies of rows of any 32-bit tensor.
import { type Tensor, zeros } from '@tensorflow/tfjs-core'
import { checkInteger, checkTensor } from '../check'
import { KernelInputError } from '../errors'
import { dispatch, dispatchInPlace } from '../kernel'
import { checkRowPage, type RowStore, rowWidth } from '../layouts'
import { copyRowsName, gatherRowsName, readRowsName, writeRowsName } from './reference'

/**
 * A page of zeros for exact rows.
 * @param capacity rows the page holds
 * @returns float32 [heads, capacity, dim] for 'f32', int32 [heads, capacity, ceil(dim / 2)] for 'f16'
 */
export function allocateRows(store: RowStore, heads: number, capacity: number, dim: number): Tensor {
  checkInteger('allocateRows', 'heads', heads, 1)
  checkInteger('allocateRows', 'capacity', capacity, 1)
  checkInteger('allocateRows', 'dim', dim, 1)
  return zeros([heads, capacity, rowWidth(store, dim)], store === 'f16' ? 'int32' : 'float32')
}

/**
 * Writes rows into a page, in place: rows from..from+count of `rows` become rows at..at+count of the page.
 * @param page made by `allocateRows`; tensors that share its storage see the change
 * @param rows float32 [heads, n, dim]
 * @param from first row taken, default 0
 * @param count rows taken, default all from `from` on
 * @throws KernelInputError when shapes, dtypes or ranges do not fit
 */
export function writeRows(
  page: Tensor,
  store: RowStore,
  at: number,
  rows: Tensor,
  from = 0,
  count = (rows.shape[1] ?? 0) - from,
): void {
  checkTensor('writeRows', 'rows', rows, 'float32', ['heads', 'n', 'dim'])
  const [heads = 0, n = 0, dim = 0] = rows.shape
  const capacity = checkRowPage('writeRows', store, page, heads, dim)
  checkRange('writeRows', 'rows', from, count, n)
  checkRange('writeRows', 'page', at, count, capacity)
  dispatchInPlace(writeRowsName, { page, rows }, { store, at, from, count })
}

/**
 * Rows from..from+count of a page.
 * @param dim channels of a row (an f16 page of an odd dim has one half unused)
 * @returns float32 [heads, count, dim]
 * @throws KernelInputError when shapes, dtypes or ranges do not fit
 */
export function readRows(page: Tensor, store: RowStore, dim: number, from: number, count: number): Tensor {
  const capacity = checkRowPage('readRows', store, page, 'heads', dim)
  checkRange('readRows', 'page', from, count, capacity)
  return dispatch(readRowsName, { page }, { store, dim, from, count })
}

/**
 * Copies rows bit for bit, in place: rows from..from+count of `source` become rows at..at+count of `target`.
 * @param target int32 or float32 [heads, capacity, width]
 * @param source same dtype [heads, n, width]; not the storage of `target`
 * @throws KernelInputError when shapes, dtypes or ranges do not fit
 */
export function copyRows(target: Tensor, at: number, source: Tensor, from: number, count: number): void {
  const [heads = 0, capacity = 0, width = 0] = target.shape
  checkWords('copyRows', target)
  checkTensor('copyRows', 'source', source, target.dtype, [heads, 'n', width])
  checkRange('copyRows', 'source', from, count, source.shape[1] ?? 0)
  checkRange('copyRows', 'target', at, count, capacity)
  dispatchInPlace(copyRowsName, { target, source }, { at, from, count })
}

/**
 * Picks rows, each head its own, out of the used rows of several pages; bit copies.
 * @param pages int32 or float32, each [heads, capacity_i, width]
 * @param counts rows used of each page
 * @param index int32 [heads, n]: row numbers over the concatenation of the used rows
 * @param capacity rows of the result, at least n; rows after n are zeros
 * @param froms first used row of each page, default 0
 * @returns the pages' dtype [heads, capacity, width]
 * @throws KernelInputError when shapes, dtypes or ranges do not fit, or an index is out of range
 */
export function gatherRows(
  pages: readonly Tensor[],
  counts: readonly number[],
  index: Tensor,
  capacity: number,
  froms: readonly number[] = pages.map(() => 0),
): Tensor {
  const first = pages[0]
  if (!first || counts.length !== pages.length || froms.length !== pages.length) {
    throw new KernelInputError({
      where: 'gatherRows',
      given: `${pages.length} pages, ${counts.length} counts, ${froms.length} froms`,
      allowed: 'at least one page, and a count and a from for each',
      cure: 'Pass one number per page.',
    })
  }
  checkWords('gatherRows', first)
  const [heads = 0, , width = 0] = first.shape
  pages.forEach((page, i) => {
    checkTensor('gatherRows', `page ${i}`, page, first.dtype, [heads, 'capacity', width])
    checkRange('gatherRows', `page ${i}`, froms[i] ?? 0, counts[i] ?? 0, page.shape[1] ?? 0)
  })
  checkTensor('gatherRows', 'index', index, 'int32', [heads, 'n'])
  checkInteger('gatherRows', 'capacity', capacity, index.shape[1] ?? 0)
  const named = Object.fromEntries(pages.map((page, i) => [`page${i}`, page]))
  return dispatch(gatherRowsName, { ...named, index }, { capacity, counts, froms })
}

function checkWords(where: string, tensor: Tensor): void {
  checkTensor(where, 'rows', tensor, tensor.dtype === 'int32' ? 'int32' : 'float32', ['heads', 'capacity', 'width'])
}

/** Throws unless from..from+count lies in 0..size. */
function checkRange(where: string, label: string, from: number, count: number, size: number): void {
  if (Number.isInteger(from) && Number.isInteger(count) && from >= 0 && count >= 0 && from + count <= size) return
  throw new KernelInputError({
    where,
    given: `rows ${from} to ${from + count} of ${label}`,
    allowed: `rows within 0 to ${size}`,
    cure: `Change the range, or use a larger ${label}.`,
  })
}
