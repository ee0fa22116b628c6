// Attention over codebook rows, and over keys stored before the rotary embedding.
import { type Tensor, tensor } from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { codebookEncode } from '../codebook/index'
import { codebookShapes } from '../codebook/layout'
import { KernelInputError } from '../errors'
import type { RowSegment } from '../layouts'
import { readSegments } from '../segment-rows/index'
import { largestError, onBackend, onBothBackends, randomValues } from '../testing'
import { attentionMass, attentionTolerance, pagedAttention } from './index'
import {
  affine,
  coupled,
  disposeSegments,
  f16,
  f32,
  higgs,
  makeSegments,
  mapped,
  type Piece,
  ranged,
  rowsOfPieces,
} from './test-pages'

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

describe('ranges of rows and channels, and outliers', () => {
  test.each([
    { dim: 64, layout: ranged('row', 8, 2) },
    { dim: 64, layout: ranged('channel', 8, 7) },
    { dim: 32, layout: ranged('row', 16, 3, 'f32') },
    { dim: 32, layout: ranged('channel', 4, 0) },
    { dim: 96, layout: ranged('channel', 16, 5, 'f32') },
    { dim: 48, layout: ranged('row', 2, 4) },
    { dim: 40, layout: ranged('row', 32, 1) },
    { dim: 16, layout: ranged('channel', 256, 16) },
    { dim: 24, layout: ranged('row', 5, 3) },
    { dim: 16, layout: ranged('row', 16, 2, 'f16', 2) },
    // A byte of a place does not name the channels of three such heads; and tables of channels.
    { dim: 128, layout: ranged('row', 8, 6) },
    { dim: 64, layout: { ...ranged('channel', 256, 6, 'f16', 4), tables: 'channels' as const } },
    { dim: 32, layout: { ...higgs(2, 16, 32), outliers: 5 } },
    { dim: 32, layout: { ...coupled(4, 256), outliers: 5, metadata: 'f32' as const } },
  ])(
    '$dim channels, $layout.vector a code, $layout.entries entries, scale $layout.scale, $layout.outliers outliers, $layout.metadata',
    async ({ dim, layout }) => {
      for (const merged of [false, true])
        for (const n of [1, 14]) {
          const keys = [
            { layout, rows: 64, merged, unrotated: n === 1 },
            { layout, rows: 35, from: 5, page: 64, merged },
            { layout: f32, rows: 3 },
          ]
          const values = [
            { layout, rows: 90, page: 128, merged },
            { layout: f16, rows: 12 },
          ]
          await agree({ kvHeads: 3, keyDim: dim, n, keys, values, ...(n === 1 ? { pairs: dim / 2 } : {}) })
        }
    },
  )

  test.each([
    { dim: 64, layout: mapped(15, 16, 32) },
    { dim: 64, layout: mapped(8, 32, 12) },
    { dim: 32, layout: mapped(15, 4, 7, 'f32') },
    { dim: 64, layout: mapped(3, 64, 64) },
    { dim: 24, layout: mapped(256, 3, 5) },
    { dim: 16, layout: mapped(15, 1, 8) },
    { dim: 48, layout: mapped(32, 24, 1) },
  ])(
    'maps: $dim channels in pieces of $layout.group, $layout.entries entries, blocks of $layout.block rows',
    async ({ dim, layout }) => {
      const block = layout.block ?? 1
      const page = block * Math.ceil(70 / block)
      for (const merged of [false, true])
        for (const n of [1, 14]) {
          const keys = [
            { layout, rows: 70, page, merged, unrotated: n === 1 },
            // The second row of a block, and blocks that a tile cuts.
            { layout, rows: page - 1, from: 1, page, merged },
            { layout: f32, rows: 3 },
          ]
          const values = [
            { layout, rows: page, merged },
            { layout, rows: 30, from: 2, page: block * Math.ceil(32 / block), merged },
            { layout: f16, rows: 42 },
          ]
          await agree({ kvHeads: 3, keyDim: dim, n, keys, values, ...(n === 1 ? { pairs: dim / 2 } : {}) })
        }
    },
  )

  test('maps beside a Hadamard block, query variants, and rows of lists', async () => {
    const layout = mapped(15, 16, 10)
    await agree({
      variants: 2,
      n: 4,
      keyDim: 32,
      keys: [
        { layout, rows: 40, merged: true },
        { layout, rows: 40, query: 1 },
        { layout: higgs(2, 16, 32), rows: 9 },
      ],
      values: [
        { layout: higgs(2, 16, 32), rows: 29 },
        { layout, rows: 60 },
      ],
      dead: 0.3,
    })
  })

  test('codes of a head that begin within a byte, heads apart', async () => {
    const layout = ranged('row', 8, 3)
    for (const keyDim of [7, 20])
      await agree({ keyDim, keys: [{ layout, rows: 70 }], values: [{ layout, rows: 70, page: 71 }] })
  })

  test('merged heads that several KV heads read, and a Hadamard block and a group a head', async () => {
    for (const layout of [ranged('channel', 8, 3), higgs(2, 16, 32), coupled(4, 256)])
      await agree({
        kvHeads: 6,
        group: 2,
        keyDim: 32,
        keys: [{ layout, rows: 41, share: 2, merged: true }],
        values: [{ layout, rows: 41, share: 3, merged: true }],
      })
  })

  test('rows of lists', async () => {
    const compute = (layout: Piece['layout']) => () => {
      const [keys, values] = [100, 200].map((seed) => makeSegments([{ layout, rows: 70, merged: true }], 2, 32, seed))
      if (!keys || !values) throw new Error('no segments')
      const query = tensor(randomValues(4 * 32, 1), [4, 1, 32])
      const lists = [0, 1, 2, 3].map((h) => Int32Array.from({ length: 9 }, (_, i) => 7 * i + h))
      const shared = { queries: [query], kvHeads: 2, keyDim: 32, valueDim: 32, scale: 0.2, causal: false }
      const { output } = pagedAttention({ ...shared, keys, values, lists })
      disposeSegments(keys, values)
      query.dispose()
      return [output]
    }
    for (const layout of [ranged('channel', 8, 4), mapped(15, 16, 10)]) {
      const { reference, wasm } = await onBothBackends(compute(layout))
      expect(largestError(wasm[0]!, reference[0]!)).toBeLessThan(attentionTolerance)
    }
  })

  test('merged heads are read as the same rows apart', async () => {
    const layout = ranged('row', 8, 5)
    await onBackend('wasm', () => {
      const [merged] = makeSegments([{ layout, rows: 9, merged: true }], 3, 32, 5)
      if (!merged) throw new Error('no segment')
      const { mergedHeads, ...one } = merged
      expect(mergedHeads).toBe(3)
      const apart = readSegments({ segments: [merged], heads: 3, dim: 32 })
      const together = readSegments({ segments: [one], heads: 1, dim: 96 })
      const [a, b] = [apart.dataSync(), together.dataSync()]
      expect(a.length).toBe(b.length)
      for (let head = 0; head < 3; head++)
        for (let row = 0; row < 9; row++)
          expect(a.slice((head * 9 + row) * 32, (head * 9 + row + 1) * 32)).toEqual(
            b.slice(row * 96 + head * 32, row * 96 + (head + 1) * 32),
          )
      apart.dispose()
      together.dispose()
      disposeSegments([merged])
      return []
    })
  })

  test.each(['cpu', 'wasm'] as const)('refuses what does not fit on %s', async (backend) => {
    await onBackend(backend, () => {
      const layout = ranged('channel', 8, 5)
      const [segment] = makeSegments([{ layout, rows: 9, merged: true }], 3, 32, 5)
      if (!segment) throw new Error('no segment')
      const read = (other: Partial<RowSegment>, dim = 32) =>
        readSegments({ segments: [{ ...segment, ...other }], heads: 3, dim })
      const { ranges, ...without } = segment
      expect(() => readSegments({ segments: [without], heads: 3, dim: 32 })).toThrow(/without a tensor of ranges/)
      expect(() => read({ mergedHeads: 2 })).toThrow(/mergedHeads = 2/)
      expect(() => read({ layout: ranged('channel', 8, 4) })).toThrow(/outliers/)
      expect(() => read({ layout: ranged('channel', 8, 0) })).toThrow(/3 tensors/)
      expect(() => read({ tensors: segment.tensors.slice(0, 1) })).toThrow(/no outliers/)
      expect(() => read({ layout: { ...layout, hadamard: 8 } })).toThrow(/Hadamard blocks of 8 with scale 'channel'/)
      expect(() => read({ layout: { ...layout, outliers: 97 } })).toThrow(/outliers = 97/)
      expect(() => read({}, 20)).toThrow(/begin at a whole byte/)
      expect(() => read({ layout: f16 })).toThrow(/begin at a whole byte/)
      expect(() => codebookShapes('test', mapped(8, 65, 3), 1, 9, 130)).toThrow(/group = 65/)
      expect(() => read({ layout: mapped(8, 16, 2) })).toThrow(/9 rows of 96 channels in blocks of 2/)
      expect(() => read({ layout: { ...mapped(8, 16, 3), outliers: 2 } })).toThrow(/outliers = 2/)
      expect(() => read({ layout: mapped(8, 16, 3) })).toThrow(/3 tensors|metadata/)
      const rows = tensor(new Float32Array(8), [1, 1, 8])
      const table = tensor(new Float32Array(8), [8, 1])
      expect(() => codebookEncode(rows, layout, table)).toThrow(/scale 'channel' and room for 5 outliers/)
      for (const each of [rows, table]) each.dispose()
      disposeSegments([segment])
      expect(() => read({})).toThrow(/disposed/)
      return []
    })
  })
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
