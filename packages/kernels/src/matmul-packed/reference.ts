import type { TensorInfo } from '@tensorflow/tfjs-core'
import { KernelInputError } from '../errors'
import { cpuKernel } from '../kernel'
import { decodeRow } from './decode'
import type { WeightFormat } from './formats'

export const matmulPackedName = 'KvloomMatmulPacked'
export const embeddingRowsName = 'KvloomEmbeddingRows'
export const unpackWeightName = 'KvloomUnpackWeight'

/** Travels with the panels of a weight. */
export type WeightAttributes = { format: WeightFormat; inFeatures: number; outFeatures: number }

/** Panels and sizes. */
export type WithWeight<Other> = Other & { panels: TensorInfo }

/** y[n, out] = sum over k of x[n, k] * w[out, k]; sums in float64, rounded once. */
export const matmulPackedReference = cpuKernel<WithWeight<{ x: TensorInfo }>, WeightAttributes>(
  matmulPackedName,
  ({ x, panels }, { format, inFeatures, outFeatures }, storage) => {
    const rows = x.shape[0] ?? 0
    const xValues = storage.float32(x)
    const words = format === 'f32' ? storage.float32(panels) : storage.int32(panels)
    const output = storage.makeOutput([rows, outFeatures], 'float32')
    const outputValues = storage.float32(output)
    const weightRow = new Float32Array(inFeatures)
    for (let out = 0; out < outFeatures; out++) {
      decodeRow(format, words, out, inFeatures, weightRow)
      for (let row = 0; row < rows; row++) {
        let sum = 0
        for (let k = 0; k < inFeatures; k++) sum += (xValues[row * inFeatures + k] ?? 0) * (weightRow[k] ?? 0)
        outputValues[row * outFeatures + out] = sum
      }
    }
    return output
  },
)

/** y[n] = w[ids[n]]. */
export const embeddingRowsReference = cpuKernel<WithWeight<{ ids: TensorInfo }>, WeightAttributes>(
  embeddingRowsName,
  ({ ids, panels }, { format, inFeatures, outFeatures }, storage) => {
    const idValues = storage.int32(ids)
    checkIds(idValues, outFeatures)
    const words = format === 'f32' ? storage.float32(panels) : storage.int32(panels)
    const output = storage.makeOutput([idValues.length, inFeatures], 'float32')
    const outputValues = storage.float32(output)
    idValues.forEach((id, n) => {
      decodeRow(format, words, id, inFeatures, outputValues.subarray(n * inFeatures, (n + 1) * inFeatures))
    })
    return output
  },
)

/** w as float32 [out, in]. */
export const unpackWeightReference = cpuKernel<WithWeight<object>, WeightAttributes>(
  unpackWeightName,
  ({ panels }, { format, inFeatures, outFeatures }, storage) => {
    const words = format === 'f32' ? storage.float32(panels) : storage.int32(panels)
    const output = storage.makeOutput([outFeatures, inFeatures], 'float32')
    const outputValues = storage.float32(output)
    for (let row = 0; row < outFeatures; row++)
      decodeRow(format, words, row, inFeatures, outputValues.subarray(row * inFeatures, (row + 1) * inFeatures))
    return output
  },
)

/** Kernels on the host see the ids at once and refuse bad ones. */
export function checkIds(ids: Int32Array, rows: number): void {
  const wrong = ids.find((id) => id < 0 || id >= rows)
  if (wrong === undefined) return
  throw new KernelInputError({
    where: 'embeddingRows',
    given: `id ${wrong}`,
    allowed: `0 to ${rows - 1}`,
    cure: 'Check that the tokenizer belongs to this model.',
  })
}
