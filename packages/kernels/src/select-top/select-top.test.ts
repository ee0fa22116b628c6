import { tensor } from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import { onBothBackends, randomValues, withTensors } from '../testing'
import { selectTop } from './index'

test.each([
  [1, 1, 1],
  [3, 4097, 512],
  [2, 1500, 1500],
  [2, 1500, 1],
  [2, 10, 0],
])('%i heads, %i scores, top %i: wasm equals the reference', async (heads, n, k) => {
  const values = randomValues(heads * n, 5, 8)
  // Many ties, and the special values.
  for (let i = 0; i < values.length; i += 2) values[i] = Math.round(values[i]!)
  values.set([0, -0, Infinity, -Infinity, NaN, 1e-40, -1e-40].slice(0, values.length))
  const { reference, wasm } = await onBothBackends(() =>
    withTensors([{ values, shape: [heads, n] }], (scores) => selectTop(scores!, k)),
  )
  expect(wasm[0]).toEqual(reference[0])
})

test('ties go to the lowest index, indices ascend', async () => {
  const { reference, wasm } = await onBothBackends(() =>
    withTensors([{ values: Float32Array.of(1, 3, 2, 3, 2, 2, -5), shape: [1, 7] }], (scores) => selectTop(scores!, 4)),
  )
  expect(reference[0]).toEqual(Int32Array.of(1, 2, 3, 4))
  expect(wasm[0]).toEqual(Int32Array.of(1, 2, 3, 4))
})

test('refuses k beyond the scores', () => {
  const scores = tensor([1, 2, 3], [1, 3])
  expect(() => selectTop(scores, 4)).toThrow(KernelInputError)
  scores.dispose()
})
