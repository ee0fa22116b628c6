import { tensor } from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import { largestError, onBothBackends, randomValues, withTensors } from '../testing'
import { rmsNorm, rmsNormTolerance } from './index'

test.each([
  [1, 1],
  [1, 576],
  [3, 7],
  [17, 64],
  [2, 1027],
])('wasm agrees with the reference on [%i, %i]', async (rows, width) => {
  const x = randomValues(rows * width, 1, 5)
  const weight = randomValues(width, 2, 2)
  const { reference, wasm } = await onBothBackends(() =>
    withTensors(
      [
        { values: x, shape: [rows, width] },
        { values: weight, shape: [width] },
      ],
      (a, b) => rmsNorm(a!, b!, 1e-5),
    ),
  )
  expect(largestError(wasm[0]!, reference[0]!)).toBeLessThan(rmsNormTolerance)
})

test('normalises to the weight', async () => {
  const { reference, wasm } = await onBothBackends(() =>
    withTensors(
      [
        { values: Float32Array.of(3, -3, 3, -3, 3), shape: [1, 5] },
        { values: Float32Array.of(1, 2, 3, 4, 5), shape: [5] },
      ],
      (a, b) => rmsNorm(a!, b!, 0),
    ),
  )
  expect([...reference[0]!]).toEqual([1, -2, 3, -4, 5])
  expect(largestError(wasm[0]!, reference[0]!)).toBeLessThan(rmsNormTolerance)
})

test('refuses what does not fit', () => {
  const x = tensor([1, 2, 3, 4], [2, 2])
  const weight = tensor([1, 2, 3])
  const fits = tensor([1, 2])
  expect(() => rmsNorm(x, weight, 1e-5)).toThrow(/weight of float32 \[3\].*\[2\]/)
  expect(() => rmsNorm(weight, weight, 1e-5)).toThrow(KernelInputError)
  expect(() => rmsNorm(x, fits, NaN)).toThrow(KernelInputError)
  for (const each of [x, weight, fits]) each.dispose()
})
