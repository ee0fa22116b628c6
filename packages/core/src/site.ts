/** Where stages are bound. */
import * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, ModelShape, Part, Site } from './contract'

/** A host tensor on the current backend; the caller's. */
export const upload = ({ shape, values }: HostTensor): tf.Tensor =>
  tf.tensor(values, [...shape], values instanceof Int32Array ? 'int32' : 'float32')

/**
 * The site of the model's own rows in one layer and part. `hold` defaults to a plain upload whose tensors nobody frees:
 * fine for questions about a stage and for tests, while a cache hands in its own pool.
 */
export const siteOf = (
  model: ModelShape,
  layer: number,
  part: Part,
  hold: (table: HostTensor) => tf.Tensor = upload,
): Site => ({
  layer,
  part,
  model,
  firstHead: 0,
  heads: model.kvHeads,
  dim: part === 'keys' ? model.keyDim : model.valueDim,
  hold,
})
