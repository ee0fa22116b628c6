import { type Tensor, tensor } from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import type { RowSegment } from '../layouts'
import { largestError, onBackend, onBothBackends, randomValues, withTensors } from '../testing'
import { attentionMass, attentionTolerance, pagedAttention } from './index'
import { affine, disposeSegments, f16, f32, makeSegments, type Piece, rowsOfPieces, symmetric } from './test-pages'

interface Setting {
  readonly keys: readonly Piece[]
  readonly values: readonly Piece[]
  readonly kvHeads?: number
  readonly group?: number
  readonly n?: number
  readonly keyDim?: number
  readonly valueDim?: number
  readonly variants?: number
  readonly causal?: boolean
  /** Share of dead rows; a head whose rows are all dead when 1. */
  readonly dead?: number
}

/** Output, log-sum-exp, and both masses of a setting, on the current backend. */
function run({
  keys,
  values,
  kvHeads = 2,
  group = 3,
  n = 1,
  keyDim = 64,
  valueDim = keyDim,
  variants = 1,
  causal = true,
  dead,
}: Setting): Tensor[] {
  const total = rowsOfPieces(keys)
  const queries = Array.from({ length: variants }, (_, i) =>
    tensor(randomValues(kvHeads * group * n * keyDim, 50 + i, 2), [kvHeads * group, n, keyDim]),
  )
  const keySegments = makeSegments(keys, kvHeads, keyDim, 100)
  const valueSegments = makeSegments(values, kvHeads, valueDim, 200)
  const lives = randomValues(kvHeads * total, 9)
  const live =
    dead === undefined
      ? undefined
      : tensor(
          Int32Array.from(lives, (x) => (x < dead * 2 - 1 ? 0 : 7)),
          [kvHeads, total],
          'int32',
        )
  const shared = {
    queries,
    keys: keySegments,
    kvHeads,
    scale: 1 / Math.sqrt(keyDim),
    causal,
    ...(live ? { live } : {}),
  }
  const { output, logSumExp } = pagedAttention({ ...shared, values: valueSegments, keyDim, valueDim, logSumExp: true })
  if (!logSumExp) throw new Error('no log-sum-exp')
  const masses = [attentionMass({ ...shared, logSumExp, reduce: 'sum' }), attentionMass({ ...shared, reduce: 'max' })]
  disposeSegments(keySegments, valueSegments)
  for (const each of [...queries, live]) each?.dispose()
  return [output, logSumExp, ...masses]
}

async function agree(setting: Setting): Promise<void> {
  await compare(setting)
}

/** wasm's outputs, after comparing them with the reference. */
async function compare(setting: Setting): Promise<Float32Array[]> {
  const { reference, wasm } = await onBothBackends(() => run(setting))
  reference.forEach((expected, i) => {
    expect(largestError(wasm[i]!, expected), ['output', 'log-sum-exp', 'mass (sum)', 'mass (max)'][i]).toBeLessThan(
      attentionTolerance,
    )
  })
  return wasm as Float32Array[]
}

/** KIVI's zones: sealed keys and values with different boundaries, exact windows. */
const kivi = (bits: number): Pick<Setting, 'keys' | 'values'> => ({
  keys: [
    { layout: affine(bits, 32, 'tokens'), rows: 128 },
    { layout: affine(bits, 32, 'tokens'), rows: 64, page: 128 },
    { layout: f32, rows: 45, page: 128 },
  ],
  values: [
    { layout: affine(bits, 32, 'channels'), rows: 109, page: 128 },
    { layout: f32, rows: 128, from: 3, page: 140 },
  ],
})

describe('layouts', () => {
  test.each([64, 80, 96, 128, 20, 7])('exact rows of dim %i, f32 and f16 mixed', (dim) =>
    agree({
      keyDim: dim,
      keys: [
        { layout: f32, rows: 70 },
        { layout: f16, rows: 5, from: 2, page: 9 },
        { layout: f32, rows: 66 },
      ],
      values: [
        { layout: f16, rows: 101 },
        { layout: f32, rows: 40, from: 1 },
      ],
    }),
  )

  test.each([1, 2, 3, 4, 5, 6, 7, 8])('KIVI zones, %i bits, one token', (bits) => agree(kivi(bits)))
  test.each([1, 2, 3, 4, 5, 6, 7, 8])('KIVI zones, %i bits, a causal chunk of 37', (bits) =>
    agree({ ...kivi(bits), n: 37 }),
  )

  test.each([2, 4, 8])('%i bits, groups of 16, dims 80 and 96, f32 metadata', (bits) =>
    agree({
      keyDim: 80,
      valueDim: 96,
      keys: [
        { layout: affine(bits, 16, 'tokens', 'f32'), rows: 48, from: 16, page: 80 },
        { layout: affine(bits, 16, 'channels', 'f32'), rows: 10 },
      ],
      values: [
        { layout: affine(bits, 16, 'channels', 'f32'), rows: 31, from: 5 },
        { layout: affine(bits, 16, 'tokens', 'f32'), rows: 27, from: 16, page: 48 },
      ],
    }),
  )

  // Whole words or not, an odd number of groups, groups of less than four words, and more queries than codes are read for as they are.
  test.each([2, 4, 5, 8])('%i bits, symmetric', async (bits) => {
    for (const [dim, group] of [
      [64, 32],
      [96, 32],
      [48, 16],
      [20, 5],
    ] as const)
      for (const metadata of ['f16', 'f32'] as const)
        for (const n of [1, 20])
          await agree({
            n,
            keyDim: dim,
            keys: [
              { layout: symmetric(bits, group, metadata), rows: 70, from: 3, page: 80 },
              { layout: f32, rows: 9 },
            ],
            values: [
              { layout: symmetric(bits, group, metadata), rows: 31, from: 5 },
              { layout: affine(bits, group, 'channels', metadata), rows: 48 },
            ],
          })
  })

  test.each([2, 3, 8])('%i bits, groups that fill no word', (bits) =>
    agree({
      keyDim: 20,
      keys: [
        { layout: affine(bits, 5, 'tokens'), rows: 65, from: 5, page: 75 },
        { layout: f32, rows: 3 },
      ],
      values: [{ layout: affine(bits, 5, 'channels'), rows: 68 }],
    }),
  )

  test('one token of context', () => agree({ keys: [{ layout: f32, rows: 1 }], values: [{ layout: f16, rows: 1 }] }))
  test('many pages of one row', () =>
    agree({
      keys: Array.from({ length: 150 }, (_, i) => ({ layout: i % 2 ? f32 : f16, rows: 1 + (i % 3) })),
      values: [{ layout: f32, rows: 300 }],
    }))
})

describe('heads, queries and masks', () => {
  test.each([1, 2, 4, 5, 7, 8, 16])('%i query heads per KV head', (group) => agree({ ...kivi(2), group }))
  test('a causal chunk larger than a query block and than a tile', () => agree({ ...kivi(4), n: 131, group: 2 }))
  test('prompt of its own: every query sees only the past', () =>
    agree({ keys: [{ layout: f32, rows: 90 }], values: [{ layout: f32, rows: 90 }], n: 90 }))
  test('not causal', () => agree({ ...kivi(2), n: 9, causal: false }))
  test.each([1, 5])('live mask, %i queries', (n) => agree({ ...kivi(2), n, dead: 0.6 }))
  test('query variants', () =>
    agree({
      variants: 3,
      n: 4,
      keys: [
        { layout: f32, rows: 40, query: 2 },
        { layout: affine(2, 32, 'tokens'), rows: 64, query: 1 },
        { layout: f16, rows: 30 },
      ],
      values: [{ layout: f32, rows: 134 }],
    }))
  test('key and value dims differ', () => agree({ ...kivi(4), keyDim: 32, valueDim: 128 }))

  test('a query that sees nothing gives zeros and -Infinity', async () => {
    const [output, logSumExp, sum] = await compare({
      keys: [{ layout: f32, rows: 70 }],
      values: [{ layout: f32, rows: 70 }],
      dead: 1.5,
    })
    expect(output!.every((x) => x === 0) && sum!.every((x) => x === 0)).toBe(true)
    expect(logSumExp!.every((x) => x === -Infinity)).toBe(true)
  })

  test('masses of a chunk sum to its queries', async () => {
    const [, , sum] = await compare({ ...kivi(4), n: 20 })
    const total = rowsOfPieces(kivi(4).keys)
    for (let head = 0; head < 6; head++)
      expect(sum!.slice(head * total, (head + 1) * total).reduce((a, b) => a + b, 0)).toBeCloseTo(20, 3)
  })
})

test('large scores do not overflow, and the softmax of equal scores is even', async () => {
  const { wasm } = await onBothBackends(() =>
    withTensors(
      [
        { values: new Float32Array(64).fill(300), shape: [1, 1, 64] },
        { values: new Float32Array(100 * 64).fill(300), shape: [1, 100, 64] },
      ],
      (query, rows) => {
        const segment: RowSegment = { layout: f32, tensors: [rows!], from: 0, rows: 100 }
        return pagedAttention({
          queries: [query!],
          keys: [segment],
          values: [segment],
          kvHeads: 1,
          keyDim: 64,
          valueDim: 64,
          scale: 1,
          causal: true,
        }).output
      },
    ),
  )
  wasm[0]!.forEach((x) => {
    expect(x).toBeCloseTo(300, 2)
  })
})

test('refuses what does not fit', async () => {
  await onBackend('wasm', () => {
    const query = tensor(new Float32Array(4 * 8), [4, 1, 8])
    const rows = tensor(new Float32Array(2 * 6 * 8), [2, 6, 8])
    const segment: RowSegment = { layout: f32, tensors: [rows], from: 0, rows: 6 }
    const base = {
      queries: [query],
      keys: [segment],
      values: [segment],
      kvHeads: 2,
      keyDim: 8,
      valueDim: 8,
      scale: 1,
      causal: true,
    }
    expect(() => pagedAttention({ ...base, keys: [], values: [] })).toThrow(/at least one of each/)
    expect(() => pagedAttention({ ...base, values: [{ ...segment, rows: 5 }] })).toThrow(/6 key rows and 5 value rows/)
    expect(() => pagedAttention({ ...base, keys: [{ ...segment, from: 1 }] })).toThrow(/rows = 6/)
    expect(() => pagedAttention({ ...base, keys: [{ ...segment, query: 1 }] })).toThrow(/query = 1/)
    expect(() => pagedAttention({ ...base, kvHeads: 3 })).toThrow(KernelInputError)
    expect(() => pagedAttention({ ...base, keyDim: 9 })).toThrow(KernelInputError)
    expect(() => pagedAttention({ ...base, live: rows })).toThrow(/int32/)
    expect(() => pagedAttention({ ...base, keys: [{ ...segment, layout: f16 }] })).toThrow(KernelInputError)
    rows.dispose()
    expect(() => pagedAttention(base)).toThrow(/disposed/)
    query.dispose()
    return []
  })
})
