import type { TensorInfo } from '@tensorflow/tfjs-core'
import { wasmKernel } from '../kernel'
import type { WasmRuntime } from '../wasm/runtime'
import { panelRows, panelWords, type WeightFormat } from './formats'
import {
  checkIds,
  embeddingRowsName,
  matmulPackedName,
  unpackWeightName,
  type WeightAttributes,
  type WithWeight,
} from './reference'

// From this many rows of x on, unpacking a panel once and a plain matrix product beat one matvec per row (measured).
const gemmRows = (format: WeightFormat): number => (format === 'f32' || format === 'f16' ? 3 : 7)

/** Fixed-point block of 32 activations, see assembly/activations.ts. */
const activationBlockBytes = 144

export const matmulPackedWasm = wasmKernel<WithWeight<{ x: TensorInfo }>, WeightAttributes>(
  matmulPackedName,
  ({ x, panels }, attributes, runtime) => {
    const rows = x.shape[0] ?? 0
    const output = runtime.makeOutput([rows, attributes.outFeatures], 'float32')
    if (rows >= gemmRows(attributes.format)) multiply(runtime, x, panels, output, rows, attributes)
    else for (let row = 0; row < rows; row++) multiplyRow(runtime, x, panels, output, row, attributes)
    return output
  },
)

/** One row of x times all panels. The last panel, when it has fewer than 8 rows, goes through scratch. */
function multiplyRow(
  runtime: WasmRuntime,
  x: TensorInfo,
  panels: TensorInfo,
  output: TensorInfo,
  row: number,
  { format, inFeatures, outFeatures }: WeightAttributes,
): void {
  const { functions } = runtime
  const rowPointer = runtime.pointerOf(x) + row * inFeatures * 4
  const target = runtime.pointerOf(output) + row * outFeatures * 4
  const full = Math.floor(outFeatures / panelRows)
  const weights = runtime.pointerOf(panels)
  const lastPanel = weights + full * panelWords(format, inFeatures) * 4
  const blocks = Math.ceil(inFeatures / 32)
  runtime.withScratch(blocks * activationBlockBytes + panelRows * 4, (scratch) => {
    const prepared = scratch + panelRows * 4
    const run = (from: number, count: number, to: number): void => {
      switch (format) {
        case 'f32':
          functions.matvecF32(from, rowPointer, inFeatures, count, to)
          break
        case 'f16':
          functions.matvecF16(from, rowPointer, inFeatures, count, to)
          break
        case 'q4_0':
          functions.matvecQ40(from, prepared, blocks, count, to)
          break
        case 'q4_1':
          functions.matvecQ41(from, prepared, blocks, count, to)
          break
        case 'q8_0':
          functions.matvecQ80(from, prepared, blocks, count, to)
          break
        case 'q6_k':
          functions.matvecQ6K(from, prepared, inFeatures / 256, count, to)
          break
      }
    }
    if (format !== 'f32' && format !== 'f16') functions.prepareActivations(rowPointer, blocks, prepared)
    run(weights, full, target)
    if (full * panelRows === outFeatures) return
    run(lastPanel, 1, scratch)
    functions.copyRowStarts(
      scratch,
      panelRows,
      target + full * panelRows * 4,
      outFeatures,
      outFeatures - full * panelRows,
      1,
    )
  })
}

// Rows of x that stay in the second-level cache while all panels pass by; panels are unpacked again for each block of rows.
const cachedBytes = 512 * 1024
const leastBlockRows = 64

/** Blocks of rows of x times one unpacked panel after the other. */
function multiply(
  runtime: WasmRuntime,
  x: TensorInfo,
  panels: TensorInfo,
  output: TensorInfo,
  rows: number,
  { format, inFeatures, outFeatures }: WeightAttributes,
): void {
  const { functions } = runtime
  const blockRows = Math.max(leastBlockRows, Math.floor(cachedBytes / (inFeatures * 4) / 4) * 4)
  runtime.withScratch((inFeatures + Math.min(rows, blockRows)) * panelRows * 4, (scratch) => {
    const tail = scratch + inFeatures * panelRows * 4
    for (let row = 0; row < rows; row += blockRows) {
      const count = Math.min(blockRows, rows - row)
      const from = runtime.pointerOf(x) + row * inFeatures * 4
      const to = runtime.pointerOf(output) + row * outFeatures * 4
      for (let column = 0; column < outFeatures; column += panelRows) {
        const unpacked = unpackPanel(runtime, panels, column / panelRows, format, inFeatures, scratch)
        if (column + panelRows <= outFeatures) {
          functions.gemmPanel(from, count, inFeatures, unpacked, to + column * 4, outFeatures * 4)
        } else {
          functions.gemmPanel(from, count, inFeatures, unpacked, tail, panelRows * 4)
          functions.copyRowStarts(tail, panelRows, to + column * 4, outFeatures, outFeatures - column, count)
        }
      }
    }
  })
}

export const embeddingRowsWasm = wasmKernel<WithWeight<{ ids: TensorInfo }>, WeightAttributes>(
  embeddingRowsName,
  ({ ids, panels }, { format, inFeatures, outFeatures }, runtime) => {
    const idValues = runtime.int32(ids).slice()
    checkIds(idValues, outFeatures)
    const output = runtime.makeOutput([idValues.length, inFeatures], 'float32')
    const target = runtime.pointerOf(output)
    runtime.withScratch(inFeatures * panelRows * 4, (scratch) => {
      idValues.forEach((id, n) => {
        const unpacked = unpackPanel(runtime, panels, id >> 3, format, inFeatures, scratch)
        runtime.functions.takePanelRow(unpacked, id & 7, inFeatures, target + n * inFeatures * 4)
      })
    })
    return output
  },
)

export const unpackWeightWasm = wasmKernel<WithWeight<object>, WeightAttributes>(
  unpackWeightName,
  ({ panels }, { format, inFeatures, outFeatures }, runtime) => {
    const output = runtime.makeOutput([outFeatures, inFeatures], 'float32')
    const target = runtime.pointerOf(output)
    runtime.withScratch(inFeatures * panelRows * 4, (scratch) => {
      let unpacked = scratch
      for (let row = 0; row < outFeatures; row++) {
        if (row % panelRows === 0) unpacked = unpackPanel(runtime, panels, row / panelRows, format, inFeatures, scratch)
        runtime.functions.takePanelRow(unpacked, row % panelRows, inFeatures, target + row * inFeatures * 4)
      }
    })
    return output
  },
)

/** Pointer to panel `panel` as float32 [inFeatures][8]: unpacked into `scratch`, or in place for f32. */
function unpackPanel(
  runtime: WasmRuntime,
  panels: TensorInfo,
  panel: number,
  format: WeightFormat,
  inFeatures: number,
  scratch: number,
): number {
  const { functions } = runtime
  const from = runtime.pointerOf(panels) + panel * panelWords(format, inFeatures) * 4
  switch (format) {
    case 'f32':
      return from
    case 'f16':
      functions.unpackF16(from, inFeatures, scratch)
      break
    case 'q4_0':
      functions.unpackQ40(from, inFeatures / 32, scratch)
      break
    case 'q4_1':
      functions.unpackQ41(from, inFeatures / 32, scratch)
      break
    case 'q8_0':
      functions.unpackQ80(from, inFeatures / 32, scratch)
      break
    case 'q6_k':
      functions.unpackQ6K(from, inFeatures / 256, scratch)
      break
  }
  return scratch
}
