import { tensor, tidy } from '@tensorflow/tfjs-core'
import { describe, expect, test } from 'vitest'
import { KernelInputError } from '../errors'
import { hadamard } from '../hadamard/index'
import { floatFromHalf, halfFromFloat } from '../rows/half'
import { onBackend, onBothBackends, randomValues, withTensors } from '../testing'
import { codebookDecode, codebookEncode, codebookOverflow } from './index'
import { type CodebookLayout, codebookShapes } from './layout'

const shared = (
  vector: number,
  entries: number,
  group: number,
  block = group,
  metadata: 'f16' | 'f32' = 'f16',
): CodebookLayout => ({
  kind: 'codebook',
  vector,
  entries,
  tables: 'shared',
  scale: 'group',
  group,
  metadata,
  hadamard: block,
})
const coupled = (vector: number, entries: number, block = 0): CodebookLayout => ({
  kind: 'codebook',
  vector,
  entries,
  tables: 'channels',
  scale: 'none',
  group: 0,
  hadamard: block,
})

/** Random rows; the first two groups are zeros and huge, some rows tiny. */
function mixedRows(heads: number, n: number, dim: number): Float32Array {
  const rows = randomValues(heads * n * dim, 3, 2)
  for (let i = 0; i < Math.min(dim, rows.length); i++) rows[i] = i % 2 ? 0 : -0
  for (let i = dim; i < Math.min(2 * dim, rows.length); i++) rows[i]! *= 1e4
  for (let i = 2 * dim; i < Math.min(3 * dim, rows.length); i++) rows[i]! *= 1e-6
  return rows
}

const settings: readonly { readonly dim: number; readonly layout: CodebookLayout }[] = [
  { dim: 64, layout: shared(2, 16, 64) },
  { dim: 64, layout: shared(2, 16, 32, 16) },
  { dim: 128, layout: shared(2, 64, 128) },
  { dim: 128, layout: shared(4, 256, 64, 64, 'f32') },
  { dim: 80, layout: shared(1, 4, 16) },
  { dim: 96, layout: shared(1, 16, 32, 0) },
  { dim: 96, layout: shared(6, 100, 32) },
  { dim: 32, layout: shared(8, 1024, 32) },
  { dim: 20, layout: shared(2, 5, 4, 2) },
  { dim: 12, layout: { ...shared(2, 16, 12, 4), scale: 'none' } },
  { dim: 64, layout: coupled(4, 256) },
  { dim: 96, layout: coupled(8, 256) },
  { dim: 80, layout: coupled(2, 256, 16) },
  { dim: 32, layout: coupled(1, 4) },
  { dim: 128, layout: coupled(8, 1024) },
  { dim: 64, layout: coupled(6, 40) },
  { dim: 7, layout: coupled(2, 3) },
]

describe.each(settings)(
  '$dim channels, $layout.vector a code, $layout.entries entries, $layout.tables, scale $layout.scale, Hadamard $layout.hadamard',
  ({ dim, layout }) => {
    test.each([1, 5, 70])('wasm equals the reference bit for bit, %i rows', async (n) => {
      const heads = 2
      const { table } = codebookShapes('test', layout, heads, n, dim)
      const { reference, wasm } = await onBothBackends(() =>
        withTensors(
          [
            { values: mixedRows(heads, n, dim), shape: [heads, n, dim] },
            {
              values: randomValues(
                table.reduce((a, b) => a * b, 1),
                8,
                2,
              ),
              shape: table,
            },
          ],
          (rows, entries) => {
            const encoded = codebookEncode(rows!, layout, entries!)
            const shape = { heads, rows: n, dim }
            return [
              encoded.codes,
              ...(encoded.metadata ? [encoded.metadata] : []),
              codebookDecode(encoded, layout, entries!, shape),
              codebookDecode(encoded, layout, entries!, shape, n >> 1, n - (n >> 1)),
            ]
          },
        ),
      )
      // Norms of the huge rows may overflow, so NaN equals NaN; -0 equals 0, since sums of zeros may differ in sign.
      const same = (a: number, b: number) => a === b || (Number.isNaN(a) && Number.isNaN(b))
      wasm.forEach((output, i) => {
        expect(output.every((value, at) => same(value, reference[i]![at]!))).toBe(true)
      })
    })
  },
)

describe.each([1, 3])('halves of two rows share a word, %i groups', (groups) => {
  const dim = 8 * groups
  test.each([1, 2, 5, 67])('%i rows', async (n) => {
    const heads = 2
    const lines = Math.ceil(n / 2)
    expect(codebookShapes('test', shared(2, 16, 8), heads, n, dim).metadata).toEqual([heads, lines, groups])
    const inputs = [
      { values: randomValues(heads * n * dim, 4, 2), shape: [heads, n, dim] },
      { values: randomValues(32, 8, 2), shape: [16, 2] },
    ]
    const both = await onBothBackends(() =>
      withTensors(inputs, (rows, table) => {
        const [half, full] = (['f16', 'f32'] as const).map((metadata) => {
          const { codes, metadata: norms } = codebookEncode(rows!, shared(2, 16, 8, 8, metadata), table!)
          codes.dispose()
          return norms!
        })
        expect(half!.shape).toEqual([heads, lines, groups])
        expect(full!.shape).toEqual([heads, n, groups])
        return [half!, full!]
      }),
    )
    for (const [words, norms] of [both.reference, both.wasm]) {
      const halfOf = (head: number, row: number, group: number) =>
        row < n ? halfFromFloat(norms![(head * n + row) * groups + group]!) : 0
      const expected = Array.from({ length: heads * lines * groups }, (_, word) => {
        const [line, group] = [Math.floor(word / groups), word % groups]
        const [head, row] = [Math.floor(line / lines), 2 * (line % lines)]
        return halfOf(head, row, group) | (halfOf(head, row + 1, group) << 16)
      })
      expect([...words!]).toEqual(expected)
    }
  })

  test.each(['cpu', 'wasm'] as const)('a view decodes to its rows of the whole page on %s', async (backend) => {
    const [heads, n] = [3, 9]
    // A table of one value: every channel of a row decodes to the stored norm of its group, over the root of its 8 channels.
    const values = Float32Array.from({ length: heads * n * dim }, (_, i) => 1 + Math.floor(i / 8))
    const normAt = (head: number, row: number, channel: number) =>
      floatFromHalf(halfFromFloat(Math.sqrt(8) * values[(head * n + row) * dim + channel]!))
    for (const [from, count] of [
      [0, 9],
      [1, 8],
      [3, 4],
      [4, 3],
      [5, 1],
      [8, 1],
      [9, 0],
    ] as const) {
      const [decoded] = await onBackend(backend, () =>
        withTensors(
          [
            { values, shape: [heads, n, dim] },
            { values: Float32Array.of(1, 1), shape: [2, 1] },
          ],
          (rows, table) => {
            const layout = shared(1, 2, 8, 0)
            const encoded = codebookEncode(rows!, layout, table!)
            const view = codebookDecode(encoded, layout, table!, { heads, rows: n, dim }, from, count)
            encoded.codes.dispose()
            encoded.metadata!.dispose()
            return [view]
          },
        ),
      )
      const expected = Float32Array.from({ length: heads * count * dim }, (_, i) => {
        const line = Math.floor(i / dim)
        return normAt(Math.floor(line / count), from + (line % count), i % dim) * Math.fround(1 / Math.sqrt(8))
      })
      expect(decoded).toEqual(expected)
    }
  })
})

test('entries of a table come back as they are, with the lowest index of equals', async () => {
  const layout = coupled(2, 8)
  const entries = Float32Array.of(1, 2, -3, 4, 1, 2, 0, 0, 5, 5, -3, 4, 9, 9, 7, 7)
  const { reference, wasm } = await onBothBackends(() =>
    withTensors(
      [
        { values: Float32Array.of(1, 2, -3, 4, 0, 0, 7, 7), shape: [1, 4, 2] },
        { values: entries, shape: [1, 1, 8, 2] },
      ],
      (rows, table) => {
        const encoded = codebookEncode(rows!, layout, table!)
        return [encoded.codes, codebookDecode(encoded, layout, table!, { heads: 1, rows: 4, dim: 2 })]
      },
    ),
  )
  expect([...wasm[0]!]).toEqual([0, 1, 3, 7])
  expect([...wasm[1]!]).toEqual([1, 2, -3, 4, 0, 0, 7, 7])
  wasm.forEach((output, i) => {
    expect(output).toEqual(reference[i])
  })
})

test.each([1, 2, 4, 16, 64, 128])(
  'Hadamard blocks of %i: same bits on both backends, its own inverse',
  async (block) => {
    const values = randomValues(2 * 3 * 128, 5)
    const { reference, wasm } = await onBothBackends(() =>
      withTensors([{ values, shape: [2, 3, 128] }], (rows) => {
        const there = hadamard(rows!, block)
        return [there, hadamard(there, block)]
      }),
    )
    wasm.forEach((output, i) => {
      expect(output).toEqual(reference[i])
    })
    // Two transforms of seven stages of f32 sums.
    wasm[1]!.forEach((value, i) => {
      expect(Math.abs(value - values[i]!)).toBeLessThan(2e-6)
    })
  },
)

test.each(['cpu', 'wasm'] as const)('norms beyond the range of halves are seen on %s', async (backend) => {
  const check = (value: number, metadata: 'f16' | 'f32') =>
    withTensors(
      [
        { values: Float32Array.of(value, 0), shape: [1, 1, 2] },
        { values: Float32Array.of(-1, 1), shape: [2, 1] },
      ],
      (rows, table) => {
        const encoded = codebookEncode(rows!, shared(1, 2, 2, 0, metadata), table!)
        encoded.codes.dispose()
        const overflow = codebookOverflow(encoded.metadata!)
        encoded.metadata!.dispose()
        return overflow
      },
    )
  expect((await onBackend(backend, () => check(65000, 'f16')))[0]).toEqual(Int32Array.of(0))
  expect((await onBackend(backend, () => check(70000, 'f16')))[0]).toEqual(Int32Array.of(1))
  expect((await onBackend(backend, () => check(70000, 'f32')))[0]).toEqual(Int32Array.of(0))
})

test('refuses layouts and shapes that do not fit', async () => {
  await onBackend('wasm', () => {
    tidy(() => {
      const rows = tensor(new Float32Array(48), [1, 6, 8])
      const table = tensor(new Float32Array(32), [16, 2])
      const layout = shared(2, 16, 8)
      expect(() => codebookEncode(rows, { ...layout, vector: 3 }, table)).toThrow(/vector = 3/)
      expect(() => codebookEncode(rows, { ...layout, entries: 1 }, table)).toThrow(/entries = 1/)
      expect(() => codebookEncode(rows, { ...layout, group: 3 }, table)).toThrow(/groups of 3/)
      expect(() => codebookEncode(rows, { ...layout, hadamard: 6 }, table)).toThrow(/Hadamard blocks of 6/)
      expect(() => codebookEncode(rows, { ...layout, group: 4, hadamard: 8 }, table)).toThrow(
        /Hadamard blocks of 8 in 4/,
      )
      expect(() => codebookEncode(rows, { ...layout, tables: 'channels' }, table)).toThrow(KernelInputError)
      expect(() => hadamard(rows, 16)).toThrow(KernelInputError)
      const encoded = codebookEncode(rows, layout, table)
      expect(() => codebookDecode(encoded, layout, table, { heads: 1, rows: 5, dim: 8 })).toThrow(/6 rows of the page/)
      expect(() => codebookDecode(encoded, layout, table, { heads: 1, rows: 6, dim: 8 }, 5, 2)).toThrow(
        KernelInputError,
      )
      const one = tensor(new Int32Array(6), [1, 6, 1], 'int32')
      expect(() => codebookDecode({ ...encoded, metadata: one }, layout, table, { heads: 1, rows: 6, dim: 8 })).toThrow(
        /metadata/,
      )
      expect(() => codebookDecode({ codes: encoded.codes }, layout, table, { heads: 1, rows: 6, dim: 8 })).toThrow(
        /no metadata/,
      )
    })
    return []
  })
})
