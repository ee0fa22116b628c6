import { tensor } from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import { largestError, onBothBackends, randomValues, withTensors } from '../testing'
import { swiGlu, swiGluTolerance } from './index'

test.each([1, 3, 4, 5, 17, 1536, 5001])('wasm agrees with the reference on %i values', async (size) => {
  const gate = randomValues(size, 1, 12)
  const up = randomValues(size, 2, 3)
  gate.set([-200, 200, 0].slice(0, size))
  const { reference, wasm } = await onBothBackends(() =>
    withTensors(
      [
        { values: gate, shape: [size] },
        { values: up, shape: [size] },
      ],
      (g, u) => swiGlu(g!, u!),
    ),
  )
  expect(largestError(wasm[0]!, reference[0]!)).toBeLessThan(swiGluTolerance)
})

test('refuses other shapes and dtypes', () => {
  const gate = tensor([1, 2, 3])
  const integers = tensor([1, 2, 3], [3], 'int32')
  const short = tensor([1, 2])
  expect(() => swiGlu(gate, short)).toThrow(KernelInputError)
  expect(() => swiGlu(gate, integers)).toThrow(/int32.*Cast up/)
  for (const each of [gate, integers, short]) each.dispose()
})
