// One sequence through all layers with what they leave kept in host memory, and back.
import type { ModelShape } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import type { Arena } from '../arena'
import { attendToItself } from '../calibration/attention'
import { afterAttention, attentionInputs, embed, mlp } from '../llama'
import type { ModelConfig } from '../models/config'
import type { LayerWeights, LlamaWeights } from '../weights'
import type { LayerTrace } from './layer'

/** What a backward pass needs to know of a model. */
export interface Layered {
  readonly config: ModelConfig
  readonly shape: ModelShape
  readonly packed: LlamaWeights
}

/** What a layer of n tokens leaves, in host memory. */
export interface HostTrace {
  readonly input: Float32Array
  readonly middle: Float32Array
  readonly attended: Float32Array | null
}

/** Whether traces hold what attention gave: the gradient of `attention.output` needs it. */
export interface TraceWish {
  readonly attended: boolean
}

/** One layer of n tokens forward: its trace and output `[n, hidden]`, all the caller's except `input`, which is `hidden`. */
export async function layerForward(
  { config, shape }: Omit<Layered, 'packed'>,
  layer: LayerWeights,
  hidden: tf.Tensor,
): Promise<Required<LayerTrace> & { readonly output: tf.Tensor }> {
  const { middle, attended } = await attentionForward({ config, shape }, layer, hidden)
  return { input: hidden, middle, attended, output: mlp(config, layer, middle) }
}

/** The first half of it: `middle` `[n, hidden]`, and `attended` `[queryHeads, n, valueDim]`. */
export async function attentionForward(
  { config, shape }: Omit<Layered, 'packed'>,
  layer: LayerWeights,
  hidden: tf.Tensor,
): Promise<{ readonly middle: tf.Tensor; readonly attended: tf.Tensor }> {
  const now = attentionInputs(config, layer, hidden)
  try {
    const attended = await attendToItself(shape, now)
    return { middle: afterAttention(layer, hidden, attended), attended }
  } finally {
    tf.dispose(now)
  }
}

/**
 * All layers. Host memory: 2 · layers · n · hidden numbers, and layers · n · queryHeads · valueDim with `attended`.
 * @param arena owns the output
 * @param onLayer called after each layer
 * @returns traces by layer, and the last layer's output `[n, hidden]`
 */
export async function forwardTraced(
  model: Layered,
  ids: Int32Array,
  arena: Arena,
  onLayer: () => void,
  { attended: keepsAttended }: TraceWish = { attended: false },
): Promise<{ readonly traces: HostTrace[]; readonly hidden: tf.Tensor }> {
  const traces: HostTrace[] = []
  let hidden = arena.own(embed(model.packed, ids)) // [n, hidden]
  for (const layer of model.packed.layers) {
    const { middle, attended, output } = await layerForward(model, layer, hidden)
    for (const each of [middle, attended, output]) arena.own(each)
    traces.push({
      input: await floats(hidden),
      middle: await floats(middle),
      attended: keepsAttended ? await floats(attended) : null,
    })
    arena.free(hidden, middle, attended)
    hidden = output
    onLayer()
  }
  return { traces, hidden }
}

/** A trace on the backend again; for use in a tidy. */
export function uploadTrace({ config, shape }: Omit<Layered, 'packed'>, n: number, trace: HostTrace): LayerTrace {
  const rows = (values: Float32Array) => tf.tensor2d(values, [n, config.hiddenSize])
  return {
    input: rows(trace.input),
    middle: rows(trace.middle),
    ...(trace.attended ? { attended: tf.tensor3d(trace.attended, [shape.queryHeads, n, shape.valueDim]) } : {}),
  }
}

/** The numbers of a tensor. */
export const floats = async (tensor: tf.Tensor): Promise<Float32Array> => (await tensor.data()) as Float32Array
