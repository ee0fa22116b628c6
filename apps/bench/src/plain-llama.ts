// The baseline of the decode-step benchmark: the same model with f32 weights and ordinary tfjs ops, weights stored transposed
// (the form tfjs's wasm matMul is fastest on), keys and values concatenated. No kernel of ours.
import type { Model } from '@kvloom/engine'
import * as tf from '@tensorflow/tfjs-core'

type LinearName = 'query' | 'key' | 'value' | 'output' | 'gate' | 'up' | 'down'
type Layer = Record<'attentionNorm' | 'mlpNorm', tf.Tensor> & Record<LinearName, tf.Tensor2D>

export interface PlainLlama {
  /** Logits `[1, vocab]` of one token at the next position. */
  step(id: number): Promise<tf.Tensor>
  /** Fills the cache with `[kvHeads, n, dim]` rows per layer, as if n tokens had been seen. */
  fill(n: number): void
  dispose(): void
}

export async function plainLlama(model: Model): Promise<PlainLlama> {
  const { config, shape } = model
  const get = (name: string) => model.weights.get(name)
  const transposed = async (name: string) => {
    const weight = await get(name)
    const result = tf.transpose(weight)
    weight.dispose()
    return result as tf.Tensor2D
  }
  const embedding = (await get('embedding')) as tf.Tensor2D
  const output = tf.transpose(embedding)
  const finalNorm = await get('finalNorm')
  const layers: Layer[] = []
  for (let l = 0; l < config.layers; l++) {
    const name = (part: string) => `layers.${l}.${part}`
    layers.push({
      attentionNorm: await get(name('attentionNorm')),
      query: await transposed(name('attention.query')),
      key: await transposed(name('attention.key')),
      value: await transposed(name('attention.value')),
      output: await transposed(name('attention.output')),
      mlpNorm: await get(name('mlpNorm')),
      gate: await transposed(name('mlp.gate')),
      up: await transposed(name('mlp.up')),
      down: await transposed(name('mlp.down')),
    })
  }
  let cache = layers.map(() => ({
    keys: tf.zeros([shape.kvHeads, 0, shape.keyDim]) as tf.Tensor3D,
    values: tf.zeros([shape.kvHeads, 0, shape.valueDim]) as tf.Tensor3D,
  }))
  let position = 0

  const norm = (x: tf.Tensor, weight: tf.Tensor) =>
    tf.mul(tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), config.rmsEpsilon))), weight)
  const rotate = (x: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor) => {
    const [a, b] = tf.split(x, 2, -1) as [tf.Tensor, tf.Tensor]
    return tf.concat([tf.sub(tf.mul(a, cos), tf.mul(b, sin)), tf.add(tf.mul(b, cos), tf.mul(a, sin))], -1)
  }
  const replace = (next: typeof cache) => {
    tf.dispose(cache.flatMap((c) => [c.keys, c.values]))
    cache = next
  }

  return {
    async step(id) {
      const group = shape.queryHeads / shape.kvHeads
      const { logits, next } = tf.tidy(() => {
        const angles = Array.from(shape.rope?.frequencies ?? [], (f) => position * f)
        const cos = tf.tensor1d(angles.map(Math.cos))
        const sin = tf.tensor1d(angles.map(Math.sin))
        let hidden: tf.Tensor = tf.slice(embedding, [id, 0], [1, -1])
        const next: typeof cache = []
        for (const [l, w] of layers.entries()) {
          const x = norm(hidden, w.attentionNorm)
          const q = rotate(
            tf.reshape(tf.matMul(x as tf.Tensor2D, w.query), [shape.queryHeads, 1, shape.keyDim]),
            cos,
            sin,
          )
          const k = rotate(tf.reshape(tf.matMul(x as tf.Tensor2D, w.key), [shape.kvHeads, 1, shape.keyDim]), cos, sin)
          const v = tf.reshape(tf.matMul(x as tf.Tensor2D, w.value), [shape.kvHeads, 1, shape.valueDim])
          const held = cache[l]
          const keys = tf.concat([held?.keys ?? k, k], 1) as tf.Tensor3D
          const values = tf.concat([held?.values ?? v, v], 1) as tf.Tensor3D
          next.push({ keys: tf.keep(keys), values: tf.keep(values) })
          const scores = tf.matMul(tf.reshape(q, [shape.kvHeads, group, shape.keyDim]), keys, false, true)
          const mixed = tf.matMul(tf.softmax(tf.mul(scores, shape.attentionScale)), values)
          hidden = tf.add(hidden, tf.matMul(tf.reshape(mixed, [1, -1]) as tf.Tensor2D, w.output))
          const y = norm(hidden, w.mlpNorm) as tf.Tensor2D
          const gate = tf.matMul(y, w.gate)
          const inner = tf.mul(tf.mul(gate, tf.sigmoid(gate)), tf.matMul(y, w.up)) as tf.Tensor2D
          hidden = tf.add(hidden, tf.matMul(inner, w.down))
        }
        return { logits: tf.matMul(norm(hidden, finalNorm) as tf.Tensor2D, output as tf.Tensor2D), next }
      })
      replace(next)
      position++
      return logits
    },
    fill(n) {
      replace(
        layers.map((_, l) => ({
          keys: tf.randomNormal([shape.kvHeads, n, shape.keyDim], 0, 1, 'float32', l + 1),
          values: tf.randomNormal([shape.kvHeads, n, shape.valueDim], 0, 1, 'float32', l + 1001),
        })),
      )
      position = n
    },
    dispose() {
      replace([])
      tf.dispose([embedding, output, finalNorm, ...layers.flatMap((w) => Object.values(w))])
    },
  }
}
