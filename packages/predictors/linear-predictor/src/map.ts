/** A linear map as it is held and applied: packed weights of the cache's pool, and rows whose sums have one order. */
import type { HostTensor, Site } from '@kvloom/core'
import { halfFromFloat, matmulPacked, type PackedWeight, packWeight } from '@kvloom/kernels'
import { add, concat, pad, slice, type Tensor, tidy } from '@tensorflow/tfjs-core'

/** y = factors (x) + bias, the first factor first. */
export interface LinearMap {
  readonly factors: readonly PackedWeight[]
  /** `[outputs]`. */
  readonly bias: Tensor
}

/** A matrix `[outputs, inputs]`, packed as the kernels read it; the cache owns and counts it. */
export function holdMap(site: Site, { shape, values }: HostTensor, format: 'f16' | 'f32'): PackedWeight {
  const [outFeatures = 0, inFeatures = 0] = shape
  const numbers = Float32Array.from(values)
  const data = format === 'f32' ? numbers : new Uint8Array(Uint16Array.from(numbers, halfFromFloat).buffer)
  const packed = packWeight({ format, data, outFeatures, inFeatures })
  const tensors = packed.tensors.map((panels) =>
    site.hold({ shape: [...panels.shape], values: panels.dataSync().slice() as Float32Array | Int32Array }),
  )
  packed.dispose()
  return { ...packed, tensors, dispose: () => undefined }
}

/**
 * Fewer rows are padded to so many: the packed product sums a row in one order from a few rows on, and in another for one or
 * two. What was predicted when a row was encoded must come out bit for bit when it is read, whatever rows are read with it.
 */
const LEAST_ROWS = 8

/** Sources `[n, channels]` each to predictions `[n, outputs]`; row i depends on row i alone, with one order of sums. */
export function predictRows({ factors, bias }: LinearMap, sources: readonly Tensor[]): Tensor {
  return tidy(() => {
    const [first, ...rest] = sources
    if (!first) throw new TypeError('linear-predictor: no sources were handed over')
    const x = rest.length === 0 ? first : concat([...sources], 1)
    const [rows = 0] = x.shape
    const enough: Tensor =
      rows >= LEAST_ROWS
        ? x
        : pad(x, [
            [0, LEAST_ROWS - rows],
            [0, 0],
          ])
    const y = factors.reduce((at, factor) => matmulPacked(at, factor), enough)
    return add(enough === x ? y : slice(y, [0, 0], [rows, -1]), bias)
  })
}
