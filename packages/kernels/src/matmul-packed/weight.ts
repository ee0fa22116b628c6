// A weight matrix as it stays in memory: packed, in one tensor of panels.
import { type Tensor, tensor } from '@tensorflow/tfjs-core'
import { checkInteger } from '../check'
import { KernelInputError } from '../errors'
import { formatFacts, panelRows, panelWords, type WeightFormat } from './formats'
import { relayFloatRows, relayRows } from './relay'

/** A weight matrix [outFeatures, inFeatures], packed. It owns its tensors. */
export interface PackedWeight {
  readonly format: WeightFormat
  readonly inFeatures: number
  readonly outFeatures: number
  /** One tensor of panels [ceil(outFeatures / 8), words of a panel]: int32, for f32 float32. Only the kernels of this package may touch it. */
  readonly tensors: readonly Tensor[]
  /** Bytes held by the tensors. */
  readonly bytes: number
  /** Frees the tensors. */
  dispose(): void
}

export interface PackWeightOptions {
  /** Format of the data. */
  readonly format: WeightFormat
  /** Rows as in the GGUF file (little-endian blocks, row by row), or plain numbers for 'f32'. Read once, not kept. */
  readonly data: Uint8Array | Float32Array
  /** Rows. */
  readonly outFeatures: number
  /** Columns; a multiple of 32 for q4_0, q4_1 and q8_0, of 256 for q6_k. */
  readonly inFeatures: number
}

/**
 * Packs a weight matrix for `matmulPacked` on the current backend. The bytes stay those of the format; rows are only interleaved (and padded to a multiple of 8).
 * @throws KernelInputError for an unknown format, or sizes that do not fit the format or the data
 */
export function packWeight({ format, data, outFeatures, inFeatures }: PackWeightOptions): PackedWeight {
  const { blockColumns, blockBytes } = formatFacts(format)
  checkInteger('packWeight', 'outFeatures', outFeatures, 1)
  checkInteger('packWeight', 'inFeatures', inFeatures, 1)
  if (inFeatures % blockColumns !== 0) {
    throw new KernelInputError({
      where: 'packWeight',
      given: `inFeatures = ${inFeatures} for ${format}`,
      allowed: `a multiple of ${blockColumns}`,
      cure: 'Store this matrix in another format.',
    })
  }
  if (data instanceof Float32Array && format !== 'f32') {
    throw new KernelInputError({
      where: 'packWeight',
      given: `a Float32Array for ${format}`,
      allowed: 'the raw bytes of the format (Uint8Array)',
      cure: "Pass the bytes, or use the format 'f32'.",
    })
  }
  const expected = outFeatures * (inFeatures / blockColumns) * blockBytes
  if (data.byteLength !== expected) {
    throw new KernelInputError({
      where: 'packWeight',
      given: `${data.byteLength} bytes for ${format} [${outFeatures}, ${inFeatures}]`,
      allowed: `${expected} bytes`,
      cure: 'Check the format and the order of the sizes (GGUF lists columns first).',
    })
  }
  const panels = Math.ceil(outFeatures / panelRows)
  const shape = [panels, panelWords(format, inFeatures)]
  const values =
    format === 'f32'
      ? relayFloatRows(floatsOf(data), outFeatures, inFeatures)
      : relayRows(format, data as Uint8Array, outFeatures, inFeatures)
  const packed = tensor(values, shape, format === 'f32' ? 'float32' : 'int32')
  return { format, inFeatures, outFeatures, tensors: [packed], bytes: packed.size * 4, dispose: () => packed.dispose() }
}

/** The panels of a weight. Throws `KernelInputError` when it is not one made by `packWeight` or was disposed. */
export function panelsOf(where: string, weight: PackedWeight): Tensor {
  const [panels] = weight.tensors
  if (panels && !panels.isDisposed) return panels
  throw new KernelInputError({
    where,
    given: panels ? 'a disposed weight' : 'a weight without tensors',
    allowed: 'a weight made by packWeight, not disposed',
    cure: 'Pack the weight again.',
  })
}

function floatsOf(data: Uint8Array | Float32Array): Float32Array {
  if (data instanceof Float32Array) return data
  return new Float32Array(data.slice().buffer)
}
