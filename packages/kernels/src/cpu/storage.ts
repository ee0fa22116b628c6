// Access of the reference kernels to the tensors of tfjs's cpu backend, as tfjs's own cpu kernels do it.
import type { TensorInfo } from '@tensorflow/tfjs-core'
import { KernelBackendError } from '../errors'

/**
 * Typed-array access to tensors of the cpu backend. The arrays are the tensors' storage, not copies; only where a cast left numbers in an
 * array of the type before it, as tfjs does from bool, a copy is made.
 */
export interface CpuStorage {
  float32(tensor: TensorInfo): Float32Array
  int32(tensor: TensorInfo): Int32Array
  /** Makes a tensor of zeros. */
  makeOutput(shape: number[], dtype: 'float32' | 'int32'): TensorInfo
}

interface CpuBackendInternals {
  readonly data: { get(dataId: object): { values?: unknown } }
  makeTensorInfo(shape: number[], dtype: string, values: Float32Array | Int32Array): TensorInfo
}

export function cpuStorageOf(backend: object): CpuStorage {
  if (!isCpuBackend(backend)) {
    throw new KernelBackendError(
      'This is not the cpu backend of tfjs 4.22: `data` or `makeTensorInfo` is missing. Install @tensorflow/tfjs-backend-cpu ~4.22.0.',
    )
  }
  const valuesOf = (tensor: TensorInfo): unknown => backend.data.get(tensor.dataId).values
  return {
    float32(tensor) {
      const values = valuesOf(tensor)
      if (values instanceof Float32Array) return values
      if (tensor.dtype === 'float32' && isTyped(values)) return Float32Array.from(values)
      throw new KernelBackendError(`Expected float32 storage of a ${tensor.dtype} tensor [${tensor.shape.join(', ')}].`)
    },
    int32(tensor) {
      const values = valuesOf(tensor)
      if (values instanceof Int32Array) return values
      if (tensor.dtype === 'int32' && isTyped(values)) return Int32Array.from(values)
      throw new KernelBackendError(`Expected int32 storage of a ${tensor.dtype} tensor [${tensor.shape.join(', ')}].`)
    },
    makeOutput(shape, dtype) {
      const size = shape.reduce((product, length) => product * length, 1)
      return backend.makeTensorInfo(shape, dtype, dtype === 'int32' ? new Int32Array(size) : new Float32Array(size))
    },
  }
}

const isTyped = (values: unknown): values is Int32Array | Uint8Array =>
  values instanceof Int32Array || values instanceof Uint8Array

function isCpuBackend(backend: object): backend is CpuBackendInternals {
  return 'data' in backend && 'makeTensorInfo' in backend && typeof backend.makeTensorInfo === 'function'
}
