import { tensor } from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import { onBothBackends, randomValues, withTensors } from '../testing'
import { hasNonFinite } from './index'

const largest = 3.4028234663852886e38

test.each([1, 3, 4, 64, 1027])('finds a broken value anywhere among %i', async (size) => {
  for (const [value, expected] of [
    [NaN, 1],
    [Infinity, 1],
    [-Infinity, 1],
    [-NaN, 1],
    [largest, 0],
    [-largest, 0],
    [1e-42, 0],
  ] as const) {
    for (const at of new Set([0, size >> 1, size - 1])) {
      const values = randomValues(size, 8)
      values[at] = value
      const { reference, wasm } = await onBothBackends(() =>
        withTensors([{ values, shape: [size] }], (x) => hasNonFinite(x!)),
      )
      expect([reference[0]![0], wasm[0]![0]], `${value} at ${at}`).toEqual([expected, expected])
    }
  }
})

test.each([65504, 1])('counts what lies beyond a limit of %i', async (limit) => {
  for (const [value, expected] of [
    [limit, 0],
    [-limit, 0],
    [limit * 1.001, 1],
    [-limit * 1.001, 1],
  ] as const) {
    const values = new Float32Array(37)
    values[36] = value
    const { reference, wasm } = await onBothBackends(() =>
      withTensors([{ values, shape: [37] }], (x) => hasNonFinite(x!, limit)),
    )
    expect([reference[0]![0], wasm[0]![0]], `${value}`).toEqual([expected, expected])
  }
})

test('answers for several tensors at once, each with its limit', async () => {
  const sizes = [5, 64, 1027]
  for (const broken of [[], [0], [2], [0, 1], [0, 1, 2]]) {
    const tensors = sizes.map((size, i) => {
      const values = new Float32Array(size).fill(i + 1)
      if (broken.includes(i)) values[size - 1] = -(i + 1) * 1.001
      return { values, shape: [size] }
    })
    const { reference, wasm } = await onBothBackends(() =>
      withTensors(tensors, (...all) => hasNonFinite(all, [1, 2, 3])),
    )
    const expected = sizes.map((_, i) => (broken.includes(i) ? 1 : 0))
    expect([[...reference[0]!], [...wasm[0]!]]).toEqual([expected, expected])
  }
  const one = await onBothBackends(() =>
    withTensors(
      sizes.map((n) => ({ values: new Float32Array(n), shape: [n] })),
      (...all) => hasNonFinite(all),
    ),
  )
  expect([...one.wasm[0]!]).toEqual([0, 0, 0])
})

test('refuses limits that are not one for each', () => {
  const x = tensor([1])
  expect(() => hasNonFinite([x, x], [1])).toThrow(KernelInputError)
  expect(() => hasNonFinite([])).toThrow(KernelInputError)
  x.dispose()
})

test('refuses integers', () => {
  const x = tensor([1], [1], 'int32')
  expect(() => hasNonFinite(x)).toThrow(KernelInputError)
  x.dispose()
})
