/** A model of two attention layers with fixed random weights: enough to run caches, compressors and protocols for real. */
import type { KVCache, ModelShape, Phase } from '@kvloom/core'
import { registerKernels } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { ScoredLogits, ScoringModel } from '../run/scoring-model'

export const VOCAB = 40
const LAYERS = 2
const QUERY_HEADS = 4
const KV_HEADS = 2
const DIM = 32
const HIDDEN = 48

export const fakeShape: ModelShape = {
  name: 'fake',
  layers: LAYERS,
  queryHeads: QUERY_HEADS,
  kvHeads: KV_HEADS,
  keyDim: DIM,
  valueDim: DIM,
  contextLength: 512,
  rope: {
    dim: DIM,
    frequencies: Float64Array.from({ length: DIM / 2 }, (_, j) => 100 ** (-j / (DIM / 2))),
    attentionFactor: 1,
  },
  attentionScale: 1 / Math.sqrt(DIM),
  fingerprint: 'fake-1',
}

export interface FakeModel extends ScoringModel {
  /** Calls of `forward` so far. */
  calls: number
  dispose(): void
}

/** @param onForward called before each step; may throw or abort. */
export async function fakeModel(onForward: (call: number) => void = () => undefined): Promise<FakeModel> {
  await registerKernels('cpu')
  await tf.setBackend('cpu')
  const weights = {
    embedding: random([VOCAB, HIDDEN], 1, 1),
    layers: Array.from({ length: LAYERS }, (_, l) => ({
      query: random([HIDDEN, QUERY_HEADS * DIM], 10 + l, 0.4),
      key: random([HIDDEN, KV_HEADS * DIM], 20 + l, 0.4),
      value: random([HIDDEN, KV_HEADS * DIM], 30 + l, 0.3),
      output: random([QUERY_HEADS * DIM, HIDDEN], 40 + l, 0.3),
    })),
    out: random([HIDDEN, VOCAB], 50, 0.3),
  }
  const heads = (x: tf.Tensor, count: number): tf.Tensor => tf.transpose(tf.reshape(x, [-1, count, DIM]), [1, 0, 2])
  const model: FakeModel = {
    shape: fakeShape,
    config: { vocabSize: VOCAB },
    calls: 0,
    async forward(cache: KVCache, ids: Int32Array, phase: Phase, options: { readonly logits?: ScoredLogits } = {}) {
      onForward(model.calls++)
      cache.begin(ids, phase)
      let hidden: tf.Tensor = tf.tidy(() => tf.gather(weights.embedding, tf.tensor1d(ids, 'int32')))
      for (const [l, w] of weights.layers.entries()) {
        const queries = tf.tidy(() => heads(tf.matMul(hidden as tf.Tensor2D, w.query), QUERY_HEADS))
        const keys = tf.tidy(() => heads(tf.matMul(hidden as tf.Tensor2D, w.key), KV_HEADS))
        const values = tf.tidy(() => heads(tf.matMul(hidden as tf.Tensor2D, w.value), KV_HEADS))
        const attended = await cache.attend(l, { queries, keys, values })
        const before = hidden
        hidden = tf.tidy(() => {
          const merged = tf.reshape(tf.transpose(attended, [1, 0, 2]), [ids.length, QUERY_HEADS * DIM])
          return tf.tanh(tf.add(before, tf.matMul(merged as tf.Tensor2D, w.output)))
        })
        tf.dispose([queries, keys, values, attended, before])
      }
      await cache.commit()
      const wanted = options.logits ?? 'last'
      const last = ids.length - 1
      try {
        if (wanted === 'none') return null
        if (wanted === 'last')
          return tf.tidy(() => tf.matMul(tf.slice(hidden as tf.Tensor2D, [last, 0], [1, -1]), weights.out))
        const all = tf.tidy(() => tf.matMul(hidden as tf.Tensor2D, weights.out))
        await wanted.visit(0, all)
        all.dispose()
        return null
      } finally {
        hidden.dispose()
      }
    },
    dispose() {
      tf.dispose([weights.embedding, weights.out, ...weights.layers.flatMap((w) => Object.values(w))])
    },
  }
  return model
}

function random(shape: [number, number], seed: number, deviation: number): tf.Tensor2D {
  return tf.randomNormal(shape, 0, deviation, 'float32', seed) as tf.Tensor2D
}

/** `count` token ids, the same every time. */
export const fakeIds = (count: number): Int32Array =>
  Int32Array.from({ length: count }, (_, i) => (i * i * 7 + i * 3 + 5) % VOCAB)
