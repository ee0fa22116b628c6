// Helpers for the tests of this package: the same computation on the reference and on wasm, with leak checks.
import { getBackend, memory, setBackend, type Tensor, tensor } from '@tensorflow/tfjs-core'
import { expect } from 'vitest'
import { registerKernels } from './register'

export type TestBackend = 'cpu' | 'wasm'

/** Runs `compute` on a backend (registered first), reads its outputs, disposes them and checks that no tensor is left over. */
export async function onBackend(
  backend: TestBackend,
  compute: () => Tensor | Tensor[],
): Promise<(Float32Array | Int32Array)[]> {
  await registerKernels(backend)
  await setBackend(backend)
  const before = memory()
  const outputs = [compute()].flat()
  const values = outputs.map((output) => output.dataSync().slice() as Float32Array | Int32Array)
  for (const output of outputs) output.dispose()
  const after = memory()
  expect({ tensors: after.numTensors, bytes: after.numBytes }, `leak on ${getBackend()}`).toEqual({
    tensors: before.numTensors,
    bytes: before.numBytes,
  })
  return values
}

/** Outputs of `compute` on both backends. `compute` makes its inputs itself (with `withTensors`), since tensors belong to a backend. */
export async function onBothBackends(
  compute: () => Tensor | Tensor[],
): Promise<{ reference: (Float32Array | Int32Array)[]; wasm: (Float32Array | Int32Array)[] }> {
  const reference = await onBackend('cpu', compute)
  const wasm = await onBackend('wasm', compute)
  return { reference, wasm }
}

/** Values for a test tensor: data, shape and dtype. */
export interface TestTensor {
  readonly values: Float32Array | Int32Array
  readonly shape: number[]
}

/** Makes tensors of copies of the values, runs `use`, and disposes them. */
export function withTensors<Result>(inputs: readonly TestTensor[], use: (...tensors: Tensor[]) => Result): Result {
  const tensors = inputs.map(({ values, shape }) =>
    tensor(values.slice(), shape, values instanceof Int32Array ? 'int32' : 'float32'),
  )
  try {
    return use(...tensors)
  } finally {
    for (const input of tensors) input.dispose()
  }
}

/** Largest |actual - expected| / (1 + |expected|); Infinity when lengths differ or NaN meets a number. */
export function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity
  let largest = 0
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i] ?? NaN, expected[i] ?? NaN]
    if (Number.isNaN(a) && Number.isNaN(e)) continue
    if (a === e) continue
    const error = Math.abs(a - e) / (1 + Math.abs(e))
    largest = Number.isNaN(error) ? Infinity : Math.max(largest, error)
  }
  return largest
}

/** Seeded uniform numbers in [-1, 1) (mulberry32). */
export function randomValues(size: number, seed: number, scale = 1): Float32Array {
  const values = new Float32Array(size)
  let state = seed >>> 0
  for (let i = 0; i < size; i++) {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    values[i] = scale * (((mixed ^ (mixed >>> 14)) >>> 0) / 2147483648 - 1)
  }
  return values
}
