// Squared gradients of the next-token loss at every layer's keys and values (the diagonal of the empirical Fisher information,
// token by token): one sequence forward with what the layers leave kept in host memory, then layer by layer back.
import type { HostTensor, Part } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { Arena } from '../arena'
import { afterAttention, attentionInputs, embed, mlp } from '../llama'
import type { Model } from '../model'
import { attendToItself } from './attention'
import { layerGradients, lossGradient, sequenceTables } from './backward'

/** Squared gradients of one layer and sequence. */
export type SquaredGradients = Readonly<Record<Part, HostTensor>>

/**
 * Squared gradients of Σ -log p(ids[t + 1] | ids[0 … t]) for one sequence, per layer: keys before RoPE, values, `[kvHeads, n, dim]`.
 * Host memory: 2 · layers · n · hidden numbers besides the result.
 * @param ids at least two
 * @param onLayer called after each layer forward and each layer back
 */
export async function squaredGradients(
  model: Model,
  ids: Int32Array,
  onLayer: () => void,
): Promise<SquaredGradients[]> {
  const { config, packed, shape } = model
  const arena = new Arena()
  try {
    const traces: { readonly input: Float32Array; readonly middle: Float32Array }[] = []
    let hidden = arena.own(embed(packed, ids)) // [n, hidden]
    for (const layer of packed.layers) {
      const now = arena.own(attentionInputs(config, layer, hidden))
      const attended = arena.own(await attendToItself(shape, now)) // [queryHeads, n, valueDim]
      const middle = arena.own(afterAttention(layer, hidden, attended)) // [n, hidden]
      const next = arena.own(mlp(config, layer, middle))
      traces.push({ input: await floats(hidden), middle: await floats(middle) })
      arena.free(now, attended, middle, hidden)
      hidden = next
      onLayer()
    }
    const tables = sequenceTables(shape, ids.length)
    arena.own(tables.rotation ?? {})
    for (const mask of tables.masks) arena.own(mask)
    let gradient = arena.own(lossGradient(config, packed, hidden, ids)) // [n, hidden]
    arena.free(hidden)
    const squared: SquaredGradients[] = []
    for (const [number, layer] of [...packed.layers.entries()].reverse()) {
      const trace = traces.pop()
      const back = arena.own(
        tf.tidy(() => {
          const rows = (values: Float32Array = new Float32Array()) =>
            tf.tensor2d(values, [ids.length, config.hiddenSize])
          const at = { input: rows(trace?.input), middle: rows(trace?.middle) }
          const { keys, values, input } = layerGradients(config, shape, layer, tables, at, gradient)
          return { keys: tf.square(keys), values: tf.square(values), input }
        }),
      )
      squared[number] = { keys: await hostTensor(back.keys), values: await hostTensor(back.values) }
      arena.free(gradient, back.keys, back.values)
      gradient = back.input
      onLayer()
    }
    return squared
  } finally {
    arena.dispose()
  }
}

const floats = async (tensor: tf.Tensor): Promise<Float32Array> => (await tensor.data()) as Float32Array

/** A copy in host memory. */
export const hostTensor = async (tensor: tf.Tensor): Promise<HostTensor> => ({
  shape: tensor.shape,
  values: (await tensor.data()) as Float32Array,
})
