/** Makes sites: where a stage is bound. */
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, ModelShape, Part, Site } from './contract'
import { upload } from './tensors'

/**
 * The site where a stage receives the model's own rows of one layer and part. By default `hold` uploads a table that nobody frees, which is
 * fine for tests and for questions about a stage; a cache hands in its own pool, which counts and frees them.
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
