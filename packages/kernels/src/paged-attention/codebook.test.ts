// Attention over codebook rows, and over keys stored before the rotary embedding.
import { type Tensor, tensor } from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import type { RowSegment } from '../layouts'
import { largestError, onBackend, onBothBackends, randomValues } from '../testing'
import { attentionMass, attentionTolerance, pagedAttention } from './index'
import { affine, coupled, disposeSegments, f16, f32, higgs, makeSegments, type Piece, rowsOfPieces } from './test-pages'

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
  readonly dead?: number
  /** Pairs of the rotation tables; default none. */
  readonly pairs?: number
}

const maxPositions = 500

/** Cosines and sines of position * 10000^(-pair / pairs). */
function tables(pairs: number): { cos: Tensor; sin: Tensor } {
  const angles = Float32Array.from(
    { length: maxPositions * pairs },
    (_, i) => Math.floor(i / pairs) * 10000 ** (-(i % pairs) / pairs),
  )
  return {
    cos: tensor(angles.map(Math.cos), [maxPositions, pairs]),
    sin: tensor(angles.map(Math.sin), [maxPositions, pairs]),
  }
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
  pairs,
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
          Int32Array.from(lives, (x) => (x < dead * 2 - 1 ? 0 : 1)),
          [kvHeads, total],
          'int32',
        )
  // Positions that skip, repeat and differ by head, as after an eviction.
  const positions = tensor(
    Int32Array.from({ length: kvHeads * total }, (_, i) => (i * 7) % maxPositions),
    [kvHeads, total],
    'int32',
  )
  const rotation = pairs === undefined ? undefined : { ...tables(pairs), positions }
  const shared = {
    queries,
    keys: keySegments,
    kvHeads,
    scale: 1 / Math.sqrt(keyDim),
    causal,
    ...(live ? { live } : {}),
    ...(rotation ? { rotation } : {}),
  }
  const { output, logSumExp } = pagedAttention({ ...shared, values: valueSegments, keyDim, valueDim, logSumExp: true })
  if (!logSumExp) throw new Error('no log-sum-exp')
  const masses = [attentionMass({ ...shared, logSumExp, reduce: 'sum' }), attentionMass({ ...shared, reduce: 'max' })]
  disposeSegments(keySegments, valueSegments)
  for (const each of [...queries, live, positions, rotation?.cos, rotation?.sin]) each?.dispose()
  return [output, logSumExp, ...masses]
}

async function agree(setting: Setting): Promise<void> {
  const { reference, wasm } = await onBothBackends(() => run(setting))
  reference.forEach((expected, i) => {
    expect(largestError(wasm[i]!, expected), ['output', 'log-sum-exp', 'mass (sum)', 'mass (max)'][i]).toBeLessThan(
      attentionTolerance,
    )
  })
}

/** Sealed codes with different boundaries for keys and values, part of a page, exact windows. */
const zones = (layout: Piece['layout']): Pick<Setting, 'keys' | 'values'> => ({
  keys: [
    { layout, rows: 64 },
    { layout, rows: 37, from: 5, page: 64 },
    { layout: f32, rows: 40 },
  ],
  values: [
    { layout, rows: 90, page: 128 },
    { layout, rows: 1, from: 3, page: 9 },
    { layout: f32, rows: 50 },
  ],
})

describe('codebook rows', () => {
  test.each([
    { dim: 64, layout: higgs(2, 16, 64) },
    { dim: 128, layout: higgs(2, 64, 128) },
    { dim: 128, layout: higgs(4, 256, 64) },
    { dim: 96, layout: higgs(1, 4, 32) },
    { dim: 80, layout: higgs(1, 16, 16, 0) },
    { dim: 32, layout: higgs(6, 300, 32, 8) },
    { dim: 32, layout: { ...higgs(2, 256, 32), metadata: 'f32' as const } },
    { dim: 20, layout: higgs(2, 16, 20, 4) },
    { dim: 14, layout: higgs(1, 4, 7, 0) },
    { dim: 64, layout: coupled(4, 256) },
    { dim: 64, layout: coupled(8, 256) },
    { dim: 128, layout: coupled(8, 1024) },
    { dim: 80, layout: coupled(2, 256) },
    { dim: 96, layout: coupled(1, 4) },
    { dim: 7, layout: coupled(2, 16) },
  ])(
    '$dim channels, $layout.vector a code, $layout.entries entries, $layout.tables, Hadamard $layout.hadamard',
    async ({ dim, layout }) => {
      await agree({ ...zones(layout), keyDim: dim })
      await agree({ ...zones(layout), keyDim: dim, n: 37 })
    },
  )

  test('all layouts in one call, Hadamard blocks of several sizes', () =>
    agree({
      n: 3,
      keys: [
        { layout: higgs(2, 16, 64), rows: 30 },
        { layout: affine(2, 32, 'tokens'), rows: 64 },
        { layout: coupled(4, 256), rows: 9 },
        { layout: higgs(2, 16, 32), rows: 21 },
        { layout: affine(4, 32, 'channels'), rows: 10 },
        { layout: f16, rows: 6 },
      ],
      values: [
        { layout: affine(2, 32, 'channels'), rows: 33 },
        { layout: higgs(2, 64, 32), rows: 40 },
        { layout: higgs(2, 16, 64), rows: 35 },
        { layout: coupled(8, 256), rows: 20 },
        { layout: f32, rows: 12 },
      ],
    }))
  test('other key and value dims, one codebook after another through the same look-up', () =>
    agree({
      keyDim: 32,
      valueDim: 96,
      keys: [
        { layout: higgs(2, 16, 32), rows: 30 },
        { layout: higgs(2, 16, 16), rows: 31 },
      ],
      values: [
        { layout: higgs(1, 4, 32), rows: 20 },
        { layout: higgs(1, 4, 96, 32), rows: 41 },
      ],
    }))
  test.each([
    { name: 'one group, by look-ups', layout: higgs(2, 16, 64) },
    { name: 'several groups', layout: higgs(2, 16, 16) },
    { name: 'codes one by one', layout: higgs(6, 300, 64) },
    { name: 'f32 norms', layout: { ...higgs(2, 16, 64), metadata: 'f32' as const } },
  ])('views of pages with an odd start, an odd count and an odd number of rows: $name', async ({ layout }) => {
    const keys = [
      { layout, rows: 1, from: 70, page: 71 },
      { layout, rows: 67, from: 33, page: 131 },
      { layout, rows: 6, from: 1, page: 7, unrotated: true },
      { layout, rows: 5, from: 2, page: 9 },
    ]
    const values = [
      { layout, rows: 66, from: 65, page: 131 },
      { layout, rows: 13, from: 7, page: 21 },
    ]
    for (const n of [1, 29]) await agree({ kvHeads: 3, pairs: 32, n, keys, values })
  })
  test('query variants', () =>
    agree({
      variants: 2,
      n: 4,
      keys: [
        { layout: higgs(2, 16, 64), rows: 40, query: 1 },
        { layout: f32, rows: 4 },
      ],
      values: [{ layout: higgs(2, 16, 64), rows: 44 }],
    }))
  test.each([1, 5])('live mask, %i queries', (n) => agree({ ...zones(higgs(2, 16, 64)), n, dead: 0.6 }))
  test('no row may be seen', () => agree({ ...zones(higgs(2, 16, 64)), dead: 1.5 }))
  test('a causal chunk larger than a block of queries, not causal', async () => {
    await agree({ ...zones(higgs(2, 16, 64)), n: 131 })
    await agree({ ...zones(coupled(4, 256)), n: 9, causal: false })
  })
  test('one row', () =>
    agree({ keys: [{ layout: higgs(2, 16, 64), rows: 1 }], values: [{ layout: coupled(4, 16), rows: 1 }] }))
})

describe('keys stored before the rotary embedding', () => {
  const layouts: readonly Piece['layout'][] = [
    f32,
    f16,
    affine(2, 16, 'tokens'),
    affine(3, 16, 'channels', 'f32'),
    affine(8, 16, 'channels'),
    higgs(2, 16, 16),
    coupled(4, 256),
  ]
  test.each([64, 80, 96, 128, 32])('every layout beside rotated rows, dim %i', async (keyDim) => {
    for (const layout of layouts) {
      const keys = [
        { layout, rows: 32, unrotated: true },
        { layout: f32, rows: 11 },
        { layout, rows: 48, from: 16, page: 64, unrotated: true },
        { layout, rows: 32, page: 48 },
        { layout: f16, rows: 3, unrotated: true },
      ]
      await agree({ keyDim, pairs: keyDim / 2, keys, values: [{ layout: f32, rows: 126 }] })
    }
  })
  test.each([1, 37])('partial rotary and an odd dim, %i queries', async (n) => {
    for (const [keyDim, pairs] of [
      [80, 16],
      [64, 5],
      [20, 10],
      [7, 3],
    ] as const) {
      const keys = [
        { layout: f32, rows: 70, from: 1, unrotated: true },
        { layout: f16, rows: 9, unrotated: true },
        { layout: affine(2, 5, 'tokens'), rows: 20, unrotated: true },
        { layout: coupled(1, 4), rows: 8, unrotated: true },
        { layout: f32, rows: 2 },
      ]
      await agree({ keyDim, pairs, n, keys, values: [{ layout: f16, rows: 109 }] })
    }
  })
  test('query variants, a live mask and a chunk', () =>
    agree({
      variants: 2,
      n: 40,
      dead: 0.4,
      pairs: 32,
      keys: [
        { layout: higgs(2, 16, 64), rows: 40, query: 1, unrotated: true },
        { layout: higgs(2, 16, 64), rows: 40 },
        { layout: f32, rows: 24, unrotated: true },
      ],
      values: [{ layout: higgs(2, 16, 64), rows: 104 }],
    }))

  test.each(['cpu', 'wasm'] as const)('refuses what does not fit on %s', async (backend) => {
    await onBackend(backend, () => {
      const query = tensor(new Float32Array(8), [1, 1, 8])
      const rows = tensor(new Float32Array(6 * 8), [1, 6, 8])
      const [table, wide] = [tensor(new Float32Array(8), [2, 4]), tensor(new Float32Array(10), [2, 5])]
      const [near, far] = [tensor([0, 1, 0, 1, 0, 1], [1, 6], 'int32'), tensor([0, 1, 0, 2, 0, 1], [1, 6], 'int32')]
      const keys: RowSegment = { layout: f32, tensors: [rows], from: 0, rows: 6, unrotated: true }
      const values: RowSegment = { layout: f32, tensors: [rows], from: 0, rows: 6 }
      const rotation = { cos: table, sin: table, positions: near }
      const base = {
        queries: [query],
        keys: [keys],
        values: [values],
        kvHeads: 1,
        keyDim: 8,
        valueDim: 8,
        scale: 1,
        causal: true,
      }
      expect(() => pagedAttention(base)).toThrow(/unrotated keys without a rotation/)
      expect(() => pagedAttention({ ...base, rotation: { ...rotation, cos: wide, sin: wide } })).toThrow(
        /4 pairs at most/,
      )
      expect(() => pagedAttention({ ...base, rotation: { ...rotation, sin: wide } })).toThrow(KernelInputError)
      expect(() => pagedAttention({ ...base, rotation: { ...rotation, positions: table } })).toThrow(/int32/)
      expect(() => pagedAttention({ ...base, values: [keys], rotation })).toThrow(/unrotated keys only/)
      expect(() => pagedAttention({ ...base, rotation: { ...rotation, positions: far } })).toThrow(
        /position outside.*0 to 1/,
      )
      expect(() => attentionMass({ ...base, rotation: { ...rotation, positions: far }, reduce: 'sum' })).toThrow(
        /position outside/,
      )
      const { output } = pagedAttention({ ...base, keys: [values], rotation: { ...rotation, positions: far } })
      const codes = tensor(new Int32Array(6), [1, 6, 1], 'int32')
      const coded: RowSegment = { layout: coupled(4, 16), tensors: [codes], from: 0, rows: 6 }
      expect(() => pagedAttention({ ...base, keys: [coded] })).toThrow(/codes without a table/)
      expect(() => pagedAttention({ ...base, keys: [{ ...coded, table }] })).toThrow(KernelInputError)
      for (const each of [query, rows, table, wide, near, far, codes, output]) each.dispose()
      return []
    })
  })
})
