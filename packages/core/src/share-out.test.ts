import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { beforeAll, describe, expect, it } from 'vitest'
import { shareOut } from './share-out'

async function shares(scores: readonly (readonly number[])[], safe: readonly number[], total: number) {
  const tensors = scores.map((own) => tf.tensor2d([...own], [1, own.length]))
  const before = tf.memory().numTensors
  const counts = await shareOut(tensors, safe, total)
  expect(tf.memory().numTensors).toBe(before)
  tf.dispose(tensors)
  return counts
}

describe('shareOut', () => {
  beforeAll(async () => {
    await registerKernels('cpu')
    await tf.setBackend('cpu')
  })

  it('gives rows to the largest scores over heads of different lengths', async () => {
    expect(await shares([[9, 8, 7], [6, 1], [5]], [0, 0, 0], 4)).toEqual([3, 1, 0])
    expect(await shares([[9, 8, 7], [6, 1], [5]], [1, 2, 1], 4)).toEqual([1, 2, 1])
  })

  it('takes the lower head of two that tie, and rows that are gone last', async () => {
    expect(
      await shares(
        [
          [1, 1],
          [1, 1],
        ],
        [0, 0],
        3,
      ),
    ).toEqual([2, 1])
    expect(
      await shares(
        [
          [-Infinity, 0],
          [-1, -2],
        ],
        [0, 0],
        3,
      ),
    ).toEqual([1, 2])
  })

  it('gives each all it has where the budget is larger', async () => {
    expect(await shares([[1, 2], [3]], [0, 0], 10)).toEqual([2, 1])
    expect(await shares([[1, 2], [3]], [0, 0], 0)).toEqual([0, 0])
  })
})
