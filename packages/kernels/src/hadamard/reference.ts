// Hadamard transform of blocks of channels (Sylvester's matrix, natural order), reference form in f32.
import type { TensorInfo } from '@tensorflow/tfjs-core'
import { cpuKernel } from '../kernel'

export const hadamardName = 'KvloomHadamard'

/** Unnormalised transform of every block of `block` values, in place: stages of distance 1, 2, 4, ... */
export function butterfly(values: Float32Array, block: number): void {
  for (let distance = 1; distance < block; distance *= 2) {
    for (let i = 0; i < values.length; i++) {
      if (i & distance) continue
      const [a, b] = [values[i] ?? 0, values[i + distance] ?? 0]
      values[i] = a + b
      values[i + distance] = a - b
    }
  }
}

export const hadamardReference = cpuKernel<{ rows: TensorInfo }, { block: number }>(
  hadamardName,
  ({ rows }, { block }, storage) => {
    const output = storage.makeOutput(rows.shape, 'float32')
    const values = storage.float32(output)
    values.set(storage.float32(rows))
    butterfly(values, block)
    const factor = Math.fround(1 / Math.sqrt(block))
    values.forEach((value, i) => {
      values[i] = value * factor
    })
    return output
  },
)
