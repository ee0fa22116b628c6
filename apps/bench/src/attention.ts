// Decode attention over 4,096 cached tokens, SmolLM2 geometry, all 30 layers, one thread: exact rows, KIVI, HIGGS and Coupled
// Quantization, each with keys stored after RoPE and before it (then rotated as they are read), and plain tfjs ops.
// Arguments: tokens (a multiple of 128, default 4096) and rounds (default 30).

import { useBackend } from '@kvloom/engine'
import {
  type AffineLayout,
  affineEncode,
  allocateRows,
  type CodebookLayout,
  codebookEncode,
  codebookShapes,
  type KeyRotation,
  pagedAttention,
  type RowSegment,
  writeRows,
} from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { type Candidate, interleave, keep } from './harness'

const layers = 30
const queryHeads = 9
const kvHeads = 3
const dim = 64
const tokens = Number(process.argv[2] ?? 4096)
const rounds = Number(process.argv[3] ?? 30)
/** Rows of a page, as the cache lays them out. */
const densePage = 64
const sealedPage = 32
const kiviKeyPage = 128
if (!(tokens > 0 && tokens % kiviKeyPage === 0))
  throw new RangeError(`tokens is ${process.argv[2]}; allowed: a multiple of ${kiviKeyPage}.`)

await useBackend('wasm')
const scale = 1 / Math.sqrt(dim)
const random = (seed: number, ...shape: number[]): tf.Tensor => tf.randomNormal(shape, 0, 1, 'float32', seed)

type Part = 'keys' | 'values'
/** Pages of the rows of one layer and part; `seed` names both. */
type Store = (rows: tf.Tensor, part: Part, seed: number) => RowSegment[]

const pages = (rows: number, page: (from: number) => Omit<RowSegment, 'from' | 'rows'>): RowSegment[] =>
  Array.from({ length: tokens / rows }, (_, i) => ({ ...page(i * rows), from: 0, rows }))

const cut = <T>(rows: tf.Tensor, from: number, count: number, work: (part: tf.Tensor) => T): T => {
  const part = tf.slice(rows, [0, from, 0], [-1, count, -1])
  try {
    return work(part)
  } finally {
    part.dispose()
  }
}

const dense =
  (store: 'f32' | 'f16'): Store =>
  (rows) =>
    pages(densePage, (from) => {
      const page = allocateRows(store, kvHeads, densePage, dim)
      writeRows(page, store, 0, rows, from, densePage)
      return { layout: { kind: 'dense', store }, tensors: [page] }
    })

/** Keys in blocks of 128 along tokens, values along channels. */
const kivi =
  (bits: number): Store =>
  (rows, part) => {
    const along = part === 'keys' ? 'tokens' : 'channels'
    const layout: AffineLayout = { kind: 'affine', bits, group: 32, along, metadata: 'f16' }
    const size = part === 'keys' ? kiviKeyPage : sealedPage
    return pages(size, (from) => {
      const { words, metadata } = cut(rows, from, size, (block) => affineEncode(block, layout))
      return { layout, tensors: [words, metadata] }
    })
  }

const codebook =
  (layout: CodebookLayout, tableOf: (seed: number) => tf.Tensor): Store =>
  (rows, _part, seed) => {
    const table = tableOf(seed)
    return pages(sealedPage, (from) => {
      const { codes, metadata } = cut(rows, from, sealedPage, (block) => codebookEncode(block, layout, table))
      return { layout, table, tensors: metadata ? [codes, metadata] : [codes] }
    })
  }

/** Pairs of channels, Hadamard blocks of 64, one table for all. */
const higgs = (bits: number): Store => {
  const entries = 2 ** (2 * bits)
  const table = random(entries, entries, 2)
  const layout: CodebookLayout = {
    kind: 'codebook',
    vector: 2,
    entries,
    tables: 'shared',
    scale: 'group',
    group: 64,
    metadata: 'f16',
    hadamard: 64,
  }
  return codebook(layout, () => table)
}

/** Codes of 8 bits, a table for each group of channels of every head, layer and part. */
const coupled = (channels: number): Store => {
  const layout: CodebookLayout = {
    kind: 'codebook',
    vector: channels,
    entries: 256,
    tables: 'channels',
    scale: 'none',
    group: 0,
    hadamard: 0,
  }
  const { table } = codebookShapes('attention', layout, kvHeads, 0, dim)
  return codebook(layout, (seed) => random(10_000 + seed, ...table))
}

const data = Array.from({ length: layers }, (_, layer) => ({
  keys: random(2 * layer + 1, kvHeads, tokens, dim),
  values: random(2 * layer + 2, kvHeads, tokens, dim),
}))
const query = random(999, queryHeads, 1, dim)

/** Row i is at position i. */
const angles = tf.outerProduct(
  tf.range(0, tokens),
  tf.tensor1d(Float32Array.from({ length: dim / 2 }, (_, j) => 100_000 ** ((-2 * j) / dim))),
)
const rotation: KeyRotation = {
  cos: tf.cos(angles),
  sin: tf.sin(angles),
  positions: tf.tensor2d(
    Int32Array.from({ length: kvHeads * tokens }, (_, i) => i % tokens),
    [kvHeads, tokens],
    'int32',
  ),
}

const storedBytes: Record<string, number> = {}

/** A store with keys after RoPE and, on the same pages, with keys that are rotated when read. */
function own(name: string, store: Store): Candidate[] {
  const after = data.map(({ keys, values }, layer) => ({
    keys: store(keys, 'keys', 2 * layer),
    values: store(values, 'values', 2 * layer + 1),
  }))
  const before = after.map(({ keys, values }) => ({
    keys: keys.map((segment) => ({ ...segment, unrotated: true })),
    values,
  }))
  storedBytes[name] = after
    .flatMap(({ keys, values }) => [...keys, ...values])
    .flatMap(({ tensors }) => tensors)
    .reduce((bytes, tensor) => bytes + 4 * tensor.size, 0)
  const candidate = (title: string, segments: typeof after, turn?: KeyRotation): Candidate => ({
    name: title,
    async run() {
      let last: tf.Tensor | null = null
      for (const { keys, values } of segments) {
        last?.dispose()
        last = pagedAttention({
          queries: [query],
          keys,
          values,
          kvHeads,
          keyDim: dim,
          valueDim: dim,
          scale,
          causal: true,
          ...(turn ? { rotation: turn } : {}),
        }).output
      }
      await last?.data()
      last?.dispose()
    },
  })
  return [candidate(name, after), candidate(`${name}, keys before RoPE`, before, rotation)]
}

/** The plain way: scores by matMul, softmax, matMul; each KV head batched over its query group, f32 rows in one tensor. */
const plain: Candidate = {
  name: 'tfjs matMul / softmax, f32',
  async run() {
    let last: tf.Tensor | null = null
    for (const { keys, values } of data) {
      last?.dispose()
      last = tf.tidy(() => {
        const q = tf.reshape(query, [kvHeads, queryHeads / kvHeads, dim])
        const weights = tf.softmax(tf.mul(tf.matMul(q, keys, false, true), scale))
        return tf.matMul(weights, values)
      })
    }
    await last?.data()
    last?.dispose()
  },
}

const candidates = [
  ...own('dense f32', dense('f32')),
  ...own('dense f16', dense('f16')),
  ...own('KIVI-2, g32', kivi(2)),
  ...own('KIVI-4, g32', kivi(4)),
  ...own('HIGGS-2, d2 g64', higgs(2)),
  ...own('HIGGS-4, d2 g64', higgs(4)),
  ...own('CQ-4c8b', coupled(4)),
  ...own('CQ-8c8b', coupled(8)),
  plain,
]
const timings = await interleave(candidates, rounds)
await keep(`attention-${tokens}`, {
  what: `Decode attention of one token over ${tokens} cached tokens, ${layers} layers, ${queryHeads} query and ${kvHeads} KV heads of ${dim}, wasm, one thread; milliseconds for all layers. f16 metadata; stored bytes without tables.`,
  tokens,
  layers,
  storedBytes,
  timings,
})
