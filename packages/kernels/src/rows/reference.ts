// Exact rows, reference form.
import type { TensorInfo } from '@tensorflow/tfjs-core'
import type { CpuStorage } from '../cpu/storage'
import { KernelInputError } from '../errors'
import { cpuKernel } from '../kernel'
import type { RowStore } from '../layouts'
import { floatFromHalf, halfFromFloat } from './half'

export const writeRowsName = 'KvloomWriteRows'
export const readRowsName = 'KvloomReadRows'
export const copyRowsName = 'KvloomCopyRows'
export const gatherRowsName = 'KvloomGatherRows'

export type WriteRows = { store: RowStore; at: number; from: number; count: number }
export type ReadRows = { store: RowStore; dim: number; from: number; count: number }
export type CopyRows = { at: number; from: number; count: number }
export type GatherRows = { capacity: number; counts: readonly number[]; froms: readonly number[] }

export const writeRowsReference = cpuKernel<{ page: TensorInfo; rows: TensorInfo }, WriteRows>(
  writeRowsName,
  ({ page, rows }, { store, at, from, count }, storage) => {
    const [heads = 0, sourceRows = 0, dim = 0] = rows.shape
    const [, capacity = 0, width = 0] = page.shape
    const source = storage.float32(rows)
    for (let head = 0; head < heads; head++) {
      for (let row = 0; row < count; row++) {
        const read = (head * sourceRows + from + row) * dim
        const write = (head * capacity + at + row) * width
        if (store === 'f32') storage.float32(page).set(source.subarray(read, read + dim), write)
        else writeHalves(source.subarray(read, read + dim), storage.int32(page), write)
      }
    }
    return []
  },
)

function writeHalves(row: Float32Array, words: Int32Array, at: number): void {
  for (let channel = 0; channel < row.length; channel += 2) {
    const low = halfFromFloat(row[channel] ?? 0)
    const high = channel + 1 < row.length ? halfFromFloat(row[channel + 1] ?? 0) : 0
    words[at + channel / 2] = low | (high << 16)
  }
}

/** One stored value as f32. */
export function storedValue(
  store: RowStore,
  values: Float32Array | Int32Array,
  row: number,
  dim: number,
  channel: number,
): number {
  if (store === 'f32') return values[row * dim + channel] ?? 0
  const word = values[row * Math.ceil(dim / 2) + (channel >> 1)] ?? 0
  return floatFromHalf((channel & 1 ? word >>> 16 : word) & 0xffff)
}

export const readRowsReference = cpuKernel<{ page: TensorInfo }, ReadRows>(
  readRowsName,
  ({ page }, { store, dim, from, count }, storage) => {
    const [heads = 0, capacity = 0] = page.shape
    const stored = store === 'f32' ? storage.float32(page) : storage.int32(page)
    const output = storage.makeOutput([heads, count, dim], 'float32')
    const values = storage.float32(output)
    for (let head = 0; head < heads; head++) {
      for (let row = 0; row < count; row++) {
        for (let channel = 0; channel < dim; channel++) {
          values[(head * count + row) * dim + channel] = storedValue(
            store,
            stored,
            head * capacity + from + row,
            dim,
            channel,
          )
        }
      }
    }
    return output
  },
)

/** A tensor's storage as raw words, so that NaN patterns and codes survive. */
function wordsOf(tensor: TensorInfo, storage: CpuStorage): Int32Array {
  const values = tensor.dtype === 'int32' ? storage.int32(tensor) : storage.float32(tensor)
  return new Int32Array(values.buffer, values.byteOffset, values.length)
}

export const copyRowsReference = cpuKernel<{ target: TensorInfo; source: TensorInfo }, CopyRows>(
  copyRowsName,
  ({ target, source }, { at, from, count }, storage) => {
    const [heads = 0, capacity = 0, width = 0] = target.shape
    const sourceRows = source.shape[1] ?? 0
    const [to, words] = [wordsOf(target, storage), wordsOf(source, storage)]
    for (let head = 0; head < heads; head++) {
      const read = (head * sourceRows + from) * width
      to.set(words.subarray(read, read + count * width), (head * capacity + at) * width)
    }
    return []
  },
)

export const gatherRowsReference = cpuKernel<Record<string, TensorInfo>, GatherRows>(
  gatherRowsName,
  ({ index, ...pages }, { capacity, counts, froms }, storage) => {
    const sources = Object.values(pages)
    const [heads = 0, count = 0] = index?.shape ?? []
    const width = sources[0]?.shape[2] ?? 0
    const output = storage.makeOutput([heads, capacity, width], sources[0]?.dtype === 'int32' ? 'int32' : 'float32')
    const to = wordsOf(output, storage)
    const numbers = index ? storage.int32(index) : []
    // Where each used row lies: [page, row of the page].
    const places = counts.flatMap((used, page) =>
      Array.from({ length: used }, (_, row) => [page, (froms[page] ?? 0) + row] as const),
    )
    const words = sources.map((source) => wordsOf(source, storage))
    for (let head = 0; head < heads; head++) {
      for (let row = 0; row < count; row++) {
        const place = places[numbers[head * count + row] ?? -1]
        if (!place) throw indexError(places.length)
        const [page, at] = place
        const read = (head * (sources[page]?.shape[1] ?? 0) + at) * width
        to.set((words[page] ?? to).subarray(read, read + width), (head * capacity + row) * width)
      }
    }
    return output
  },
)

export function indexError(rows: number): KernelInputError {
  return new KernelInputError({
    where: 'gatherRows',
    given: 'an index outside the used rows',
    allowed: `0 to ${rows - 1}`,
    cure: 'Number rows over the concatenation of the used rows of all pages.',
  })
}
