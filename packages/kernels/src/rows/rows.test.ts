import { tensor, tidy } from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import { onBackend, onBothBackends, randomValues, withTensors } from '../testing'
import { floatFromHalf, halfFromFloat, roundHalfEven } from './half'
import { allocateRows, copyRows, gatherRows, readRows, writeRows } from './index'

const everyHalf = Array.from({ length: 65536 }, (_, half) => half)
const isNaNHalf = (half: number) => (half & 0x7fff) > 0x7c00

describe('halves', () => {
  test('every half comes back as it was, infinities and denormals too', () => {
    for (const half of everyHalf) {
      if (isNaNHalf(half)) expect(floatFromHalf(half)).toBeNaN()
      else if (halfFromFloat(floatFromHalf(half)) !== half)
        expect.fail(`${half} came back as ${halfFromFloat(floatFromHalf(half))}`)
    }
  })

  test('rounds to nearest, ties to even, overflows at 65520', () => {
    expect(halfFromFloat(1 + 2 ** -11)).toBe(0x3c00)
    expect(halfFromFloat(1 + 3 * 2 ** -11)).toBe(0x3c02)
    expect(halfFromFloat(2 ** -25)).toBe(0)
    expect(halfFromFloat(3 * 2 ** -25)).toBe(2)
    expect(halfFromFloat(65519.996)).toBe(0x7bff)
    expect(halfFromFloat(65520)).toBe(0x7c00)
    expect(halfFromFloat(-Infinity)).toBe(0xfc00)
    expect(halfFromFloat(NaN)).toBe(0x7e00)
    expect([0.5, 1.5, 2.5, -0.5, -1.5].map(roundHalfEven)).toEqual([0, 2, 2, 0, -2])
  })
})

/** Hard values: every half, neighbours of ties, denormals, infinities, NaN. */
function hardValues(size: number): Float32Array {
  const values = randomValues(size, 7, 4)
  const special = [
    Infinity,
    -Infinity,
    NaN,
    0,
    -0,
    65504,
    65519.996,
    65520,
    -65520,
    1e30,
    2 ** -24,
    2 ** -25,
    3 * 2 ** -25,
    2 ** -14,
    2 ** -14 - 2 ** -25,
    6.1e-5,
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
    1e-30,
  ]
  for (let i = 0; i < size; i += 3) values[i] = special[(i / 3) % special.length] ?? 0
  return values
}

describe.each(['f32', 'f16'] as const)('%s rows', (store) => {
  test.each([64, 80, 96, 128, 20, 7])('written and read back alike on both backends, dim %i', async (dim) => {
    const [heads, capacity, n] = [3, 11, 6]
    const values = hardValues(heads * n * dim)
    const { reference, wasm } = await onBothBackends(() =>
      withTensors([{ values, shape: [heads, n, dim] }], (rows) => {
        const page = allocateRows(store, heads, capacity, dim)
        writeRows(page, store, 2, rows!)
        writeRows(page, store, 9, rows!, 4, 1)
        const read = [readRows(page, store, dim, 0, capacity), readRows(page, store, dim, 9, 1)]
        return [page, ...read]
      }),
    )
    wasm.forEach((output, i) => {
      expect(output).toEqual(reference[i])
    })
    const expected = Array.from(values.subarray(4 * dim, 5 * dim), (value) =>
      store === 'f32' ? value : floatFromHalf(halfFromFloat(value)),
    )
    expect(Array.from(wasm[2]!.subarray(0, dim))).toEqual(expected)
  })
})

test('wasm reads every half exactly', async () => {
  const words = Int32Array.from({ length: 32768 }, (_, i) => (2 * i) | ((2 * i + 1) << 16))
  const [values] = await onBackend('wasm', () =>
    withTensors([{ values: words, shape: [1, 512, 64] }], (page) => readRows(page!, 'f16', 128, 0, 512)),
  )
  everyHalf.forEach((half) => {
    if (!Object.is(values![half], floatFromHalf(half))) expect.fail(`half ${half} read as ${values![half]}`)
  })
})

/** Words with all 32 bits in use, NaN patterns among them. */
const fullWords = (size: number) =>
  Int32Array.from({ length: size }, (_, i) => Math.imul(i + 1, 0x9e3779b1) ^ (i % 5 === 0 ? 0x7fc00000 : 0))

test('copies rows bit for bit', async () => {
  const [from, to] = [fullWords(2 * 9 * 70), fullWords(2 * 12 * 70).reverse()]
  const { reference, wasm } = await onBothBackends(() => {
    const target = tensor(to.slice(), [2, 12, 70], 'int32')
    withTensors([{ values: from, shape: [2, 9, 70] }], (source) => copyRows(target, 3, source!, 4, 5))
    return target
  })
  expect(wasm[0]).toEqual(reference[0])
  expect(wasm[0]!.subarray((12 + 3) * 70, (12 + 8) * 70)).toEqual(from.subarray((9 + 4) * 70, 18 * 70))
  expect(wasm[0]!.subarray(0, 3 * 70)).toEqual(to.subarray(0, 3 * 70))
})

test('gathers rows over the used rows of pages', async () => {
  const [a, b] = [fullWords(2 * 30 * 33), fullWords(2 * 8 * 33).reverse()]
  const index = Int32Array.from([0, 19, 20, 24, 3, 21, 24, 0, 7, 7])
  const { reference, wasm } = await onBothBackends(() =>
    withTensors(
      [
        { values: a, shape: [2, 30, 33] },
        { values: b, shape: [2, 8, 33] },
        { values: index, shape: [2, 5] },
      ],
      (first, second, rows) => gatherRows([first!, second!], [20, 5], rows!, 16, [10, 2]),
    ),
  )
  expect(wasm[0]).toEqual(reference[0])
  // Head 1, row 0 is number 21: row 2 + 1 of the second page.
  expect(wasm[0]!.subarray(16 * 33, 17 * 33)).toEqual(b.subarray((8 + 3) * 33, (8 + 4) * 33))
  expect(wasm[0]!.subarray(5 * 33, 16 * 33).every((word) => word === 0)).toBe(true)
})

test.each(['cpu', 'wasm'] as const)('refuses what does not fit on %s', async (backend) => {
  await onBackend(backend, () => {
    tidy(() => {
      const page = allocateRows('f16', 2, 4, 10)
      const rows = tensor(new Float32Array(2 * 3 * 10), [2, 3, 10])
      expect(() => writeRows(page, 'f16', 2, rows)).toThrow(/rows 2 to 5 of page/)
      expect(() => writeRows(page, 'f32', 0, rows)).toThrow(KernelInputError)
      expect(() => readRows(page, 'f16', 12, 0, 1)).toThrow(KernelInputError)
      expect(() => copyRows(page, 0, rows, 0, 1)).toThrow(KernelInputError)
      const index = tensor([0, 3, 0, 0], [2, 2], 'int32')
      expect(() => gatherRows([page], [3], index, 4)).toThrow(/outside the used rows/)
      expect(() => gatherRows([], [], index, 4)).toThrow(KernelInputError)
    })
    return []
  })
})
