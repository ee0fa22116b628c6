import { type Tensor, tensor } from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import { largestError, onBackend, onBothBackends, randomValues, withTensors } from '../testing'
import { latentsToOutputs, latentTolerance, queriesToLatents } from './index'

// KV heads, query heads of each, heads of latents, queries, rank, dim.
const SETTINGS = [
  [3, 3, 1, 1, 144, 64],
  [3, 3, 3, 1, 48, 64],
  [4, 1, 2, 5, 7, 6],
  [2, 2, 1, 33, 20, 10],
  [1, 1, 1, 1, 1, 1],
] as const

test.each(SETTINGS)(
  '%i KV heads of %i query heads, %i heads of latents, %i queries, rank %i, dim %i',
  async (kvHeads, group, mainHeads, n, rank, dim) => {
    const inputs = [
      { values: randomValues(kvHeads * group * n * dim, 1), shape: [kvHeads * group, n, dim] },
      { values: randomValues(kvHeads * group * n * rank, 2), shape: [kvHeads * group, n, rank] },
      { values: randomValues(kvHeads * rank * dim, 3), shape: [mainHeads, rank, (kvHeads / mainHeads) * dim] },
    ]
    const { reference, wasm } = await onBothBackends(() =>
      withTensors(inputs, (queries, outputs, up) => [
        queriesToLatents(queries!, up!, kvHeads),
        latentsToOutputs(outputs!, up!, kvHeads),
      ]),
    )
    wasm.forEach((made, i) => {
      expect(made.length).toBe(kvHeads * group * n * (i === 0 ? rank : dim))
      expect(largestError(made, reference[i]!)).toBeLessThan(latentTolerance)
    })
  },
)

test.each(['cpu', 'wasm'] as const)('a query meets a latent as it meets its key, on %s', async (backend) => {
  // Two KV heads of one latent head; a latent of one makes the keys [1, 2] and [3, 4].
  const [projected, back] = await onBackend(backend, () =>
    withTensors(
      [
        { values: Float32Array.of(10, 1, 100, 1000), shape: [2, 1, 2] },
        { values: Float32Array.of(2, 5), shape: [2, 1, 1] },
        { values: Float32Array.of(1, 2, 3, 4), shape: [1, 1, 4] },
      ],
      (queries, outputs, up) => [queriesToLatents(queries!, up!, 2), latentsToOutputs(outputs!, up!, 2)],
    ),
  )
  expect(projected).toEqual(Float32Array.of(12, 4300))
  expect(back).toEqual(Float32Array.of(2, 4, 15, 20))
})

test('refuses what does not fit', async () => {
  await onBackend('wasm', () => {
    const made: Tensor[] = []
    const zeros = (...shape: number[]) => {
      const t = tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape)
      made.push(t)
      return t
    }
    expect(() => queriesToLatents(zeros(3, 1, 4), zeros(1, 2, 8), 2)).toThrow(/3 query heads/)
    expect(() => queriesToLatents(zeros(4, 1, 4), zeros(1, 2, 9), 2)).toThrow(KernelInputError)
    expect(() => queriesToLatents(zeros(4, 1, 4), zeros(4, 2, 2), 2)).toThrow(/heads of latents/)
    expect(() => latentsToOutputs(zeros(4, 1, 4), zeros(1, 2, 8), 2)).toThrow(KernelInputError)
    expect(() => latentsToOutputs(zeros(4, 1, 2), zeros(1, 2, 7), 2)).toThrow(KernelInputError)
    for (const t of made) t.dispose()
    return []
  })
})
