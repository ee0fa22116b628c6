import { memory, type Tensor, tensor, zeros } from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import { largestError, onBackend, onBothBackends, randomValues, type TestBackend, withTensors } from '../testing'
import { formatFacts, type WeightFormat } from './formats'
import { ggufRow, randomBlocks } from './gguf.test-helper'
import { embeddingRows, matmulPacked, matmulPackedTolerance, unpackTolerance, unpackWeight } from './index'
import { type PackedWeight, packWeight } from './weight'

const formats: WeightFormat[] = ['f32', 'f16', 'q8_0', 'q4_0', 'q4_1', 'q6_k']
const backends: TestBackend[] = ['cpu', 'wasm']

/** Random weight bytes, and what they mean by an independent decoder of the file format. */
function makeData(
  format: WeightFormat,
  outFeatures: number,
  inFeatures: number,
): { data: Uint8Array; dense: Float32Array } {
  const data = randomBlocks(format, outFeatures, inFeatures, outFeatures * 1009 + inFeatures)
  const dense = new Float32Array(outFeatures * inFeatures)
  const rowBytes = data.length / outFeatures
  for (let row = 0; row < outFeatures; row++)
    dense.set(ggufRow(format, data.subarray(row * rowBytes, (row + 1) * rowBytes), inFeatures), row * inFeatures)
  return { data, dense }
}

function withWeight(
  format: WeightFormat,
  data: Uint8Array,
  outFeatures: number,
  inFeatures: number,
  use: (weight: PackedWeight) => Tensor,
): Tensor {
  const weight = packWeight({ format, data, outFeatures, inFeatures })
  try {
    return use(weight)
  } finally {
    weight.dispose()
  }
}

describe.each(formats)('%s', (format) => {
  const block = formatFacts(format).blockColumns
  const sizes =
    block === 1
      ? [
          [1, 1],
          [7, 33],
          [8, 32],
          [13, 95],
          [37, 1027],
        ]
      : [
          [1, block],
          [7, block],
          [8, 3 * block],
          [37, 5 * block],
        ]

  test.each(sizes)('unpacks [%i, %i] to what the file format says', async (outFeatures, inFeatures) => {
    const { data, dense } = makeData(format, outFeatures!, inFeatures!)
    for (const backend of backends) {
      const [unpacked] = await onBackend(backend, () =>
        withWeight(format, data, outFeatures!, inFeatures!, unpackWeight),
      )
      expect(largestError(unpacked!, dense), backend).toBeLessThanOrEqual(unpackTolerance)
    }
  })

  test.each(sizes.flatMap((size) => [1, 2, 3, 4, 5, 17].map((n) => [...size, n])))(
    'multiplies [%i, %i] by %i rows',
    async (outFeatures, inFeatures, n) => {
      const { data, dense } = makeData(format, outFeatures!, inFeatures!)
      const x = randomValues(n! * inFeatures!, 5, 2)
      const { reference, wasm } = await onBothBackends(() =>
        withTensors([{ values: x, shape: [n!, inFeatures!] }], (input) =>
          withWeight(format, data, outFeatures!, inFeatures!, (weight) => matmulPacked(input!, weight)),
        ),
      )
      expect(largestError(reference[0]!, product(x, dense, n!, outFeatures!, inFeatures!))).toBeLessThan(1e-6)
      expect(largestError(wasm[0]!, reference[0]!)).toBeLessThan(matmulPackedTolerance)
    },
  )

  test('takes rows by id', async () => {
    const [outFeatures, inFeatures] = [21, 2 * block + (block === 1 ? 31 : 0)]
    const { data, dense } = makeData(format, outFeatures, inFeatures)
    const ids = Int32Array.of(20, 0, 7, 7, 8)
    const expected = [...ids].flatMap((id) => [...dense.subarray(id * inFeatures, (id + 1) * inFeatures)])
    for (const backend of backends) {
      const [rows] = await onBackend(backend, () =>
        withTensors([{ values: ids, shape: [5] }], (idTensor) =>
          withWeight(format, data, outFeatures, inFeatures, (weight) => embeddingRows(weight, idTensor!)),
        ),
      )
      expect(largestError(rows!, expected), backend).toBeLessThanOrEqual(unpackTolerance)
    }
  })
})

test('multiplies more rows than one cache block holds', async () => {
  const { data } = makeData('q4_1', 13, 2048)
  const x = randomValues(150 * 2048, 6, 1)
  const { reference, wasm } = await onBothBackends(() =>
    withTensors([{ values: x, shape: [150, 2048] }], (input) =>
      withWeight('q4_1', data, 13, 2048, (weight) => matmulPacked(input!, weight)),
    ),
  )
  expect(largestError(wasm[0]!, reference[0]!)).toBeLessThan(matmulPackedTolerance)
})

// Fixed-point activations must not lose small values beside large ones, nor hide broken ones.
test.each(['q8_0', 'q4_1', 'q6_k'] as const)('%s keeps activations of very different sizes', async (format) => {
  const { data } = makeData(format, 16, 512)
  const x = randomValues(512, 9)
  for (let k = 0; k < 512; k++) x[k] = (x[k] ?? 0) * 10 ** ((k % 13) - 8)
  x.fill(0, 64, 96)
  x.fill(1e-40, 96, 128)
  const { reference, wasm } = await onBothBackends(() =>
    withTensors([{ values: x, shape: [1, 512] }], (input) =>
      withWeight(format, data, 16, 512, (weight) => matmulPacked(input!, weight)),
    ),
  )
  expect(largestError(wasm[0]!, reference[0]!)).toBeLessThan(matmulPackedTolerance)
})

test.each([NaN, Infinity])('an activation of %d reaches every output', async (broken) => {
  const { data } = makeData('q4_1', 16, 64)
  const x = randomValues(64, 9)
  x[40] = broken
  const [values] = await onBackend('wasm', () =>
    withTensors([{ values: x, shape: [1, 64] }], (input) =>
      withWeight('q4_1', data, 16, 64, (weight) => matmulPacked(input!, weight)),
    ),
  )
  expect(values!.every((value) => !Number.isFinite(value))).toBe(true)
})

test('keeps the bytes of the format', async () => {
  await onBackend('wasm', () => {
    const before = memory().numBytes
    const weight = packWeight({
      format: 'q4_1',
      data: randomBlocks('q4_1', 64, 256, 1),
      outFeatures: 64,
      inFeatures: 256,
    })
    expect(weight.bytes).toBe((64 * 256 * 5) / 8)
    expect(memory().numBytes - before).toBe(weight.bytes)
    weight.dispose()
    return []
  })
})

test('works after the wasm memory has grown', async () => {
  const { data, dense } = makeData('q4_0', 24, 64)
  const x = randomValues(2 * 64, 3)
  const [values] = await onBackend('wasm', () =>
    withTensors([{ values: x, shape: [2, 64] }], (input) =>
      withWeight('q4_0', data, 24, 64, (weight) => {
        const large = [1, 2, 3].map(() => zeros([32 * 1024 * 1024]))
        try {
          return matmulPacked(input!, weight)
        } finally {
          for (const each of large) each.dispose()
        }
      }),
    ),
  )
  expect(largestError(values!, product(x, dense, 2, 24, 64))).toBeLessThan(matmulPackedTolerance)
})

test('refuses what does not fit', async () => {
  await onBackend('wasm', () => {
    const data = randomBlocks('q4_1', 8, 64, 1)
    expect(() => packWeight({ format: 'q5_0' as WeightFormat, data, outFeatures: 8, inFeatures: 64 })).toThrow(
      /q5_0.*q4_1/,
    )
    expect(() => packWeight({ format: 'q4_1', data, outFeatures: 8, inFeatures: 63 })).toThrow(/multiple of 32/)
    expect(() => packWeight({ format: 'q4_1', data, outFeatures: 9, inFeatures: 64 })).toThrow(/360 bytes/)
    expect(() => packWeight({ format: 'q4_1', data: new Float32Array(80), outFeatures: 8, inFeatures: 64 })).toThrow(
      KernelInputError,
    )
    expect(() => packWeight({ format: 'q4_1', data, outFeatures: 0, inFeatures: 64 })).toThrow(KernelInputError)
    const weight = packWeight({ format: 'q4_1', data, outFeatures: 8, inFeatures: 64 })
    const narrow = zeros([1, 63])
    const ids = tensor([0, 8], [2], 'int32')
    expect(() => matmulPacked(narrow, weight)).toThrow(KernelInputError)
    expect(() => embeddingRows(weight, narrow)).toThrow(KernelInputError)
    expect(() => embeddingRows(weight, ids)).toThrow(/id 8.*0 to 7/)
    weight.dispose()
    expect(() => unpackWeight(weight)).toThrow(/disposed/)
    for (const each of [narrow, ids]) each.dispose()
    return []
  })
})

function product(
  x: Float32Array,
  dense: Float32Array,
  n: number,
  outFeatures: number,
  inFeatures: number,
): Float32Array {
  const result = new Float32Array(n * outFeatures)
  for (let row = 0; row < n; row++) {
    for (let out = 0; out < outFeatures; out++) {
      let sum = 0
      for (let k = 0; k < inFeatures; k++) sum += (x[row * inFeatures + k] ?? 0) * (dense[out * inFeatures + k] ?? 0)
      result[row * outFeatures + out] = sum
    }
  }
  return result
}
