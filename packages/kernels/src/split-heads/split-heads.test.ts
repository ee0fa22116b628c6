import { reshape, tensor, transpose } from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import { onBackend, randomValues, withTensors } from '../testing'
import { mergeHeads, splitHeads } from './index'

const backends = ['cpu', 'wasm'] as const

test.each([
  [1, 9, 64],
  [5, 3, 64],
  [17, 2, 7],
  [130, 1, 10],
  [1, 4, 1],
])('splits and merges %i rows of %i heads of %i', async (rows, heads, dim) => {
  const x = randomValues(rows * heads * dim, 3)
  for (const backend of backends) {
    const [split, expected, merged] = await onBackend(backend, () =>
      withTensors([{ values: x, shape: [rows, heads * dim] }], (input) => {
        const parts = splitHeads(input!, heads)
        const cube = reshape(input!, [rows, heads, dim])
        const moved = transpose(cube, [1, 0, 2])
        cube.dispose()
        return [parts, moved, mergeHeads(parts)]
      }),
    )
    expect(split).toEqual(expected)
    expect(merged).toEqual(x)
  }
})

test('refuses what does not fit', () => {
  const x = tensor([1, 2, 3, 4, 5, 6], [1, 6])
  expect(() => splitHeads(x, 4)).toThrow(/4 heads for a width of 6/)
  expect(() => splitHeads(x, 0)).toThrow(KernelInputError)
  expect(() => mergeHeads(x)).toThrow(KernelInputError)
  x.dispose()
})
