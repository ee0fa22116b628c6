// Decode attention over 4,096 cached tokens, SmolLM2 geometry, all 30 layers, one thread: own kernels against tfjs ops.

import { useBackend } from '@kvloom/engine'
import {
  type AffineLayout,
  affineEncode,
  allocateRows,
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
const pageRows = 64

await useBackend('wasm')
const scale = 1 / Math.sqrt(dim)
const random = (seed: number, ...shape: [number, number, number]): tf.Tensor3D =>
  tf.randomNormal(shape, 0, 1, 'float32', seed)

/** Dense pages of every layer, as the cache lays them out. */
const densePages = (store: 'f32' | 'f16', rows: tf.Tensor3D): RowSegment[] =>
  Array.from({ length: tokens / pageRows }, (_, page) => {
    const tensor = allocateRows(store, kvHeads, pageRows, dim)
    writeRows(tensor, store, 0, rows, page * pageRows, pageRows)
    return { layout: { kind: 'dense', store }, tensors: [tensor], from: 0, rows: pageRows }
  })

/** KIVI: keys in blocks of 128 along tokens, values in pages of 32 rows along channels. */
const affinePages = (layout: AffineLayout, rows: tf.Tensor3D, block: number): RowSegment[] =>
  Array.from({ length: tokens / block }, (_, page) => {
    const part = tf.slice(rows, [0, page * block, 0], [-1, block, -1])
    const { words, metadata } = affineEncode(part, layout)
    part.dispose()
    return { layout, tensors: [words, metadata], from: 0, rows: block }
  })

const data = Array.from({ length: layers }, (_, layer) => ({
  keys: random(layer * 2 + 1, kvHeads, tokens, dim),
  values: random(layer * 2 + 2, kvHeads, tokens, dim),
}))
const query = random(999, queryHeads, 1, dim)

const own = (name: string, build: (rows: tf.Tensor3D, part: 'keys' | 'values') => RowSegment[]): Candidate => {
  const segments = data.map(({ keys, values }) => ({ keys: build(keys, 'keys'), values: build(values, 'values') }))
  return {
    name,
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
        }).output
      }
      await last?.data()
      last?.dispose()
    },
  }
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

const kivi = (bits: number) =>
  own(`KIVI-${bits}, f16 metadata`, (rows, part) =>
    part === 'keys'
      ? affinePages({ kind: 'affine', bits, group: 32, along: 'tokens', metadata: 'f16' }, rows, 128)
      : affinePages({ kind: 'affine', bits, group: 32, along: 'channels', metadata: 'f16' }, rows, 32),
  )

const candidates = [
  own('dense f32', (rows) => densePages('f32', rows)),
  own('dense f16', (rows) => densePages('f16', rows)),
  kivi(2),
  kivi(4),
  plain,
]
const timings = await interleave(candidates, rounds)
await keep(`attention-${tokens}`, {
  what: `Decode attention of one token over ${tokens} cached tokens, ${layers} layers, ${queryHeads} query and ${kvHeads} KV heads of ${dim}, wasm, one thread; milliseconds for all layers.`,
  tokens,
  layers,
  timings,
})
