// Heads that share pages, and query heads that read lists of rows: random settings on wasm and on the reference.
import { type Tensor, tensor } from '@tensorflow/tfjs-core'
import { expect, test } from 'vitest'
import type { RowLayout, RowSegment } from '../layouts'
import { largestError, onBackend, onBothBackends, randomValues } from '../testing'
import { attentionMass, attentionTolerance, pagedAttention } from './index'
import { affine, coupled, disposeSegments, f16, f32, higgs, makeSegments, type Piece, rowsOfPieces } from './test-pages'

/** Whole numbers below a bound, from a seed. */
function drawing(seed: number): (below: number) => number {
  const values = randomValues(4096, seed)
  let at = 0
  return (below) => Math.min(below - 1, Math.floor((((values[at++ % 4096] ?? 0) + 1) / 2) * below))
}

const PAIRS = 4
const POSITIONS = 900

interface Setting {
  readonly kvHeads: number
  readonly group: number
  readonly n: number
  readonly keyDim: number
  readonly valueDim: number
  readonly causal: boolean
  readonly keys: readonly Piece[]
  readonly values: readonly Piece[]
  /** Whether heads share live marks and positions. */
  readonly together: boolean
  readonly dead: boolean
  /** Of 8 rows, how many a query head reads, or null for all of them without a list. */
  readonly listed: number | null
}

/** A setting with pages of every layout, shared by heads or not. */
function draw(seed: number): Setting {
  const below = drawing(seed)
  const kvHeads = [1, 2, 3, 4, 6][below(5)] ?? 1
  const dims = [32, 64, 20, 8]
  const layouts = (dim: number): readonly RowLayout[] =>
    dim % 32 === 0
      ? [f32, f16, affine(2, 32, 'channels'), affine(3, 32, 'tokens'), higgs(2, 16, 32), coupled(4, 256)]
      : [f32, f16, affine(4, 4, 'channels'), affine(2, 32, 'tokens', 'f32')]
  const pieces = (total: number, dim: number, ofKeys: boolean): Piece[] => {
    const made: Piece[] = []
    for (let left = total; left > 0; ) {
      const choice = layouts(dim)
      const layout = choice[below(choice.length)] ?? f32
      const along = layout.kind === 'affine' && layout.along === 'tokens'
      const rows = Math.min(left, 1 + below(90))
      const from = along ? 32 * below(2) : below(5)
      const divisors = [1, 2, 3, 6].filter((share) => kvHeads % share === 0)
      made.push({
        layout,
        rows,
        from,
        page: along ? Math.ceil((from + rows) / 32) * 32 : from + rows + below(3),
        share: divisors[below(divisors.length)] ?? 1,
        ...(ofKeys ? { query: below(2), unrotated: below(3) === 0 } : {}),
      })
      left -= rows
    }
    return made
  }
  const [keyDim, valueDim] = [dims[below(4)] ?? 8, dims[below(4)] ?? 8]
  const total = 40 + below(300)
  return {
    kvHeads,
    group: 1 + below(4),
    n: below(2) === 0 ? 1 : 1 + below(9),
    keyDim,
    valueDim,
    causal: below(2) === 0,
    keys: pieces(total, keyDim, true),
    values: pieces(total, valueDim, false),
    together: below(2) === 0,
    dead: below(3) === 0,
    listed: below(4) === 0 ? null : below(9),
  }
}

/** Output and log-sum-exp, and the mass where all rows are read. */
function run({ kvHeads, group, n, keyDim, valueDim, causal, keys, values, together, dead, listed }: Setting): Tensor[] {
  const total = rowsOfPieces(keys)
  const queries = [50, 51].map((seed) =>
    tensor(randomValues(kvHeads * group * n * keyDim, seed, 2), [kvHeads * group, n, keyDim]),
  )
  const keySegments = makeSegments(keys, kvHeads, keyDim, 100)
  const valueSegments = makeSegments(values, kvHeads, valueDim, 200)
  const heads = together ? 1 : kvHeads
  const live = dead
    ? tensor(
        Int32Array.from(randomValues(heads * total, 9), (x) => (x < -0.5 ? 0 : 7)),
        [heads, total],
        'int32',
      )
    : null
  const angles = randomValues(POSITIONS * PAIRS, 60, 3)
  const rotation = {
    cos: tensor(angles.map(Math.cos), [POSITIONS, PAIRS]),
    sin: tensor(angles.map(Math.sin), [POSITIONS, PAIRS]),
    positions: tensor(
      Int32Array.from(randomValues(heads * total, 61), (x) => Math.floor(((x + 1) / 2) * POSITIONS)),
      [heads, total],
      'int32',
    ),
  }
  const shared = {
    queries,
    keys: keySegments,
    kvHeads,
    scale: 1 / Math.sqrt(keyDim),
    causal,
    rotation,
    ...(live ? { live } : {}),
  }
  const lists =
    listed === null
      ? null
      : Array.from({ length: kvHeads * group }, (_, h) => {
          const drawn = randomValues(total, 70 + h)
          return Int32Array.from(Array.from(drawn.keys()).filter((row) => ((drawn[row] ?? 0) + 1) * 4 < listed))
        })
  const outputs = Object.values(
    pagedAttention({
      ...shared,
      values: valueSegments,
      keyDim,
      valueDim,
      logSumExp: true,
      ...(lists ? { lists } : {}),
    }),
  ) as Tensor[]
  if (!lists) outputs.push(attentionMass({ ...shared, reduce: 'sum' }))
  disposeSegments(keySegments, valueSegments)
  for (const each of [...queries, live, rotation.cos, rotation.sin, rotation.positions]) each?.dispose()
  return outputs
}

test.each(Array.from({ length: 60 }, (_, seed) => seed))('shared pages and lists, drawn from %i', async (seed) => {
  const { reference, wasm } = await onBothBackends(() => run(draw(seed)))
  reference.forEach((expected, i) => {
    expect(largestError(wasm[i] ?? [], expected)).toBeLessThan(attentionTolerance)
  })
})

test('a list of all rows reads what no list reads', async () => {
  const setting = { ...draw(3), causal: true, n: 3 }
  const all = await onBackend('wasm', () => run({ ...setting, listed: null }).flatMap(keepFirst(2)))
  const listed = await onBackend('wasm', () => run({ ...setting, listed: 8 }))
  listed.forEach((values, i) => {
    expect(largestError(values, all[i] ?? [])).toBeLessThan(attentionTolerance)
  })
})

/** Disposes what comes after the first `count` tensors. */
const keepFirst =
  (count: number) =>
  (made: Tensor, i: number): Tensor[] => {
    if (i < count) return [made]
    made.dispose()
    return []
  }

test('refuses lists that name no rows of the call, and shares that do not divide the heads', async () => {
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
    const lists = (...last: number[]) => [[0], [], [1, 5], last].map((list) => Int32Array.from(list))
    pagedAttention({ ...base, lists: lists(2, 3) }).output.dispose()
    expect(() => pagedAttention({ ...base, lists: lists(3, 2) })).toThrow(/ascending/)
    expect(() => pagedAttention({ ...base, lists: lists(2, 2) })).toThrow(/each row once/)
    expect(() => pagedAttention({ ...base, lists: lists(6) })).toThrow(/rows 0 to 5/)
    expect(() => pagedAttention({ ...base, lists: lists(-1) })).toThrow(/rows 0 to 5/)
    expect(() => pagedAttention({ ...base, lists: lists(1).slice(1) })).toThrow(/a list for each query head/)
    const shared = { ...segment, share: 2 }
    expect(() => pagedAttention({ ...base, keys: [shared] })).toThrow(/page|rows/)
    expect(() => pagedAttention({ ...base, kvHeads: 4, keys: [{ ...segment, share: 3 }] })).toThrow(/divides/)
    pagedAttention({ ...base, kvHeads: 4, keys: [shared], values: [{ ...shared }] }).output.dispose()
    rows.dispose()
    query.dispose()
    return []
  })
})
