import { type Tensor, tensor } from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import { largestError, onBackend, onBothBackends, randomValues, type TestTensor, withTensors } from '../testing'
import { rope, ropeTolerance } from './index'

/** Tables of angle position · base^(-j / pairs). */
function tables(positions: number, pairs: number): { cos: TestTensor; sin: TestTensor } {
  const angles = Float32Array.from(
    { length: positions * pairs },
    (_, i) => Math.floor(i / pairs) * 10000 ** (-(i % pairs) / pairs),
  )
  const shape = [positions, pairs]
  return { cos: { values: angles.map(Math.cos), shape }, sin: { values: angles.map(Math.sin), shape } }
}

const cases = [
  { heads: 1, rows: 1, dim: 64, pairs: 32, perHead: false },
  { heads: 9, rows: 17, dim: 64, pairs: 32, perHead: false },
  { heads: 3, rows: 5, dim: 64, pairs: 32, perHead: true },
  { heads: 2, rows: 3, dim: 80, pairs: 16, perHead: false },
  { heads: 2, rows: 3, dim: 7, pairs: 3, perHead: true },
]

for (const { heads, rows, dim, pairs, perHead } of cases) {
  const { cos, sin } = tables(100, pairs)
  const x: TestTensor = { values: randomValues(heads * rows * dim, 4, 3), shape: [heads, rows, dim] }
  const positions: TestTensor = {
    values: Int32Array.from({ length: perHead ? heads * rows : rows }, (_, i) => (i * 37) % 100),
    shape: perHead ? [heads, rows] : [rows],
  }
  const inputs = [x, cos, sin, positions]
  const title = `[${heads}, ${rows}, ${dim}], ${pairs} pairs, positions ${perHead ? 'per head' : 'shared'}`

  test.each([false, true])(`wasm agrees with the reference on ${title}, inverse %s`, async (inverse) => {
    const { reference, wasm } = await onBothBackends(() =>
      withTensors(inputs, (a, c, s, p) => rope(a!, { cos: c!, sin: s! }, p!, { inverse })),
    )
    expect(largestError(wasm[0]!, reference[0]!)).toBeLessThan(ropeTolerance)
  })

  test(`the reference is a complex product on ${title}, and the inverse undoes it`, async () => {
    const [rotated, back] = await onBackend('cpu', () =>
      withTensors(inputs, (a, c, s, p): Tensor[] => {
        const there = rope(a!, { cos: c!, sin: s! }, p!)
        return [there, rope(there, { cos: c!, sin: s! }, p!, { inverse: true })]
      }),
    )
    expect(largestError(back!, x.values)).toBeLessThan(ropeTolerance)
    const expected = x.values.slice()
    for (let row = 0; row < heads * rows; row++) {
      const position = positions.values[perHead ? row : row % rows]!
      for (let j = 0; j < pairs; j++) {
        const angle = position * 10000 ** (-j / pairs)
        const [real, imaginary] = [x.values[row * dim + j]!, x.values[row * dim + j + pairs]!]
        expected[row * dim + j] = real * Math.cos(angle) - imaginary * Math.sin(angle)
        expected[row * dim + j + pairs] = real * Math.sin(angle) + imaginary * Math.cos(angle)
      }
    }
    // The tables hold cosines of float32 angles up to 99: off by 99 * 2^-24.
    expect(largestError(rotated!, expected)).toBeLessThan(2e-5)
  })
}

test.each(['cpu', 'wasm'] as const)('refuses what does not fit on %s', async (backend) => {
  await onBackend(backend, () => {
    const x = tensor([1, 2, 3, 4], [1, 1, 4])
    const wide = tensor([1, 2, 3], [1, 3])
    const table = tensor([1, 2], [1, 2])
    const position = tensor([0], [1], 'int32')
    const far = tensor([1], [1], 'int32')
    expect(() => rope(x, { cos: wide, sin: wide }, position)).toThrow(/2 pairs at most/)
    expect(() => rope(x, { cos: table, sin: wide }, position)).toThrow(KernelInputError)
    expect(() => rope(x, { cos: table, sin: table }, table)).toThrow(/Cast|Reshape/)
    expect(() => rope(x, { cos: table, sin: table }, far)).toThrow(/position 1.*0 to 0/)
    for (const each of [x, wide, table, position, far]) each.dispose()
    return []
  })
})
