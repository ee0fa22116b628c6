// Squared gradients of the next-token loss at every layer's keys and values (the diagonal of the empirical Fisher information,
// token by token): one sequence forward with what the layers leave kept in host memory, then layer by layer back.
import type { HostTensor, Part } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { Arena } from '../arena'
import { headLoss } from '../gradients/head'
import { type BackwardVisit, backThroughLayers, forwardTraced } from '../gradients/sequence'
import type { Model } from '../model'

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
  const squared: SquaredGradients[] = []
  await lossGradients(model, ids, {}, onLayer, {
    pick: ({ keys, values }) => ({ keys: tf.square(keys), values: tf.square(values) }),
    visit: async (layer, { keys, values }) => {
      squared[layer] = { keys: await hostTensor(keys), values: await hostTensor(values) }
      onLayer()
    },
  })
  return squared
}

/** What a pass forward and back is of. */
interface LossWish {
  /** As in `HeadWish`. */
  readonly ahead?: number
  /** As in `TraceWish`. */
  readonly attended?: boolean
}

/**
 * One sequence forward and back: gradients of Σ -log p(ids[t + ahead] | ids[0 … t]).
 * @param ids more than `ahead`
 * @param onLayer called after each layer forward
 */
export async function lossGradients<G extends Readonly<Record<string, tf.Tensor>>>(
  model: Model,
  ids: Int32Array,
  { ahead = 1, attended = false }: LossWish,
  onLayer: () => void,
  visit: BackwardVisit<G>,
): Promise<void> {
  const { config, packed } = model
  const arena = new Arena()
  try {
    const { traces, hidden } = await forwardTraced(model, ids, arena, onLayer, { attended })
    const loss = headLoss(config, packed, hidden, ids, { gradientOf: 'next-token', ahead })
    loss.nextToken.dispose()
    arena.free(hidden)
    if (loss.hidden) await backThroughLayers(model, traces, arena.own(loss.hidden), arena, visit)
  } finally {
    arena.dispose()
  }
}

/** A copy in host memory. */
export const hostTensor = async (tensor: tf.Tensor): Promise<HostTensor> => ({
  shape: tensor.shape,
  values: (await tensor.data()) as Float32Array,
})
