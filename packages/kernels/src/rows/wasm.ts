import type { TensorInfo } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import {
  type CopyRows,
  copyRowsName,
  type GatherRows,
  gatherRowsName,
  indexError,
  type ReadRows,
  readRowsName,
  type WriteRows,
  writeRowsName,
} from './reference'

export const writeRowsWasm = wasmKernel<{ page: TensorInfo; rows: TensorInfo }, WriteRows>(
  writeRowsName,
  ({ page, rows }, { store, at, from, count }, runtime) => {
    const [heads = 0, sourceRows = 0, dim = 0] = rows.shape
    runtime.functions.writeRows(
      runtime.pointerOf(page),
      page.shape[1] ?? 0,
      at,
      runtime.pointerOf(rows),
      sourceRows,
      from,
      count,
      heads,
      dim,
      store === 'f16' ? 1 : 0,
    )
    return []
  },
)

export const readRowsWasm = wasmKernel<{ page: TensorInfo }, ReadRows>(
  readRowsName,
  ({ page }, { store, dim, from, count }, runtime) => {
    const [heads = 0, capacity = 0] = page.shape
    const output = runtime.makeOutput([heads, count, dim], 'float32')
    runtime.functions.readRows(
      runtime.pointerOf(page),
      capacity,
      from,
      count,
      runtime.pointerOf(output),
      heads,
      dim,
      store === 'f16' ? 1 : 0,
    )
    return output
  },
)

export const copyRowsWasm = wasmKernel<{ target: TensorInfo; source: TensorInfo }, CopyRows>(
  copyRowsName,
  ({ target, source }, { at, from, count }, runtime) => {
    const [heads = 0, capacity = 0, width = 0] = target.shape
    runtime.functions.copyRows(
      runtime.pointerOf(target),
      capacity,
      at,
      runtime.pointerOf(source),
      source.shape[1] ?? 0,
      from,
      count,
      heads,
      width,
    )
    return []
  },
)

export const gatherRowsWasm = wasmKernel<Record<string, TensorInfo>, GatherRows>(
  gatherRowsName,
  ({ index, ...pages }, { capacity, counts, froms }, runtime) => {
    const sources = Object.values(pages)
    const [heads = 0, count = 0] = index?.shape ?? []
    const width = sources[0]?.shape[2] ?? 0
    const output = runtime.makeOutput([heads, capacity, width], sources[0]?.dtype === 'int32' ? 'int32' : 'float32')
    const table = sources.flatMap((page, i) => [
      runtime.pointerOf(page),
      page.shape[1] ?? 0,
      froms[i] ?? 0,
      counts[i] ?? 0,
    ])
    const wrong = runtime.withScratch(table.length * 4, (pointer) => {
      runtime.int32At(pointer, table.length).set(table)
      return runtime.functions.gatherRows(
        pointer,
        sources.length,
        index ? runtime.pointerOf(index) : 0,
        count,
        runtime.pointerOf(output),
        capacity,
        heads,
        width,
      )
    })
    if (wrong > 0) {
      runtime.dispose(output)
      throw indexError(counts.reduce((sum, used) => sum + used, 0))
    }
    return output
  },
)
