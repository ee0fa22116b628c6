// One sequence through all layers with what they leave kept in host memory, and back.
import { type ModelShape, takeTurn } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import type { Arena } from '../arena'
import { attendToItself } from '../calibration/attention'
import { afterAttention, attentionInputs, embed, mlp } from '../llama'
import type { ModelConfig } from '../models/config'
import type { LayerWeights, LlamaWeights } from '../weights'
import { type GradientsWanted, type LayerGradients, type LayerTrace, layerGradients } from './layer'
import { disposeTables, sequenceTables } from './tables'

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

/** What a layer leaves while a sequence goes through: its trace and its output `[n, hidden]`. */
export type LayerLeft = Required<LayerTrace> & { readonly output: tf.Tensor }

/** One layer of n tokens forward: its trace and output `[n, hidden]`, all the caller's except `input`, which is `hidden`. */
async function layerForward(
  { config, shape }: Omit<Layered, 'packed'>,
  layer: LayerWeights,
  hidden: tf.Tensor,
): Promise<LayerLeft> {
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
 * One sequence through all layers.
 * @param arena owns the output, and what a layer leaves until it was visited
 * @param visit called after each layer; what it throws ends the pass
 * @returns the last layer's output `[n, hidden]`
 */
export async function throughLayers(
  model: Layered,
  ids: Int32Array,
  arena: Arena,
  visit: (left: LayerLeft) => void | Promise<void>,
): Promise<tf.Tensor> {
  let hidden = arena.own(embed(model.packed, ids)) // [n, hidden]
  for (const layer of model.packed.layers) {
    await takeTurn()
    const left = await layerForward(model, layer, hidden)
    const { middle, attended, output } = left
    arena.own({ middle, attended, output })
    await visit(left)
    arena.free(hidden, middle, attended)
    hidden = output
  }
  return hidden
}

/**
 * The same with traces in host memory: 2 · layers · n · hidden numbers, and layers · n · queryHeads · valueDim with `attended`.
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
  const hidden = await throughLayers(model, ids, arena, async ({ input, middle, attended }) => {
    traces.push({
      input: await floats(input),
      middle: await floats(middle),
      attended: keepsAttended ? await floats(attended) : null,
    })
    onLayer()
  })
  return { traces, hidden }
}

/** What is done with the gradients of each layer on the way back. */
export interface BackwardVisit<G extends Readonly<Record<string, tf.Tensor>>> {
  /** Default: all but those of weights. */
  readonly wanted?: (layer: number) => GradientsWanted
  /** What is kept of them; runs in a tidy. */
  readonly pick: (gradients: LayerGradients) => G
  /** Called after each layer with what was picked, which is freed afterwards; what it throws ends the pass. */
  readonly visit: (layer: number, picked: G) => Promise<void>
}

/**
 * Back through all layers, the last one first; each is computed again from its trace.
 * @param traces by layer; taken one by one, so that their memory goes as the pass does
 * @param gradient `[n, hidden]` at the last layer's output, owned by `arena`; it is freed
 */
export async function backThroughLayers<G extends Readonly<Record<string, tf.Tensor>>>(
  model: Layered,
  traces: HostTrace[],
  gradient: tf.Tensor,
  arena: Arena,
  { wanted, pick, visit }: BackwardVisit<G>,
): Promise<void> {
  const { config, shape, packed } = model
  const n = gradient.shape[0] ?? 0
  const tables = sequenceTables(shape, n)
  let given: tf.Tensor | undefined = gradient
  try {
    for (const [number, layer] of [...packed.layers.entries()].reverse()) {
      await takeTurn()
      const trace = traces.pop()
      if (!trace || !given) return
      const at: tf.Tensor = given
      const { picked, input }: { readonly picked: G; readonly input?: tf.Tensor } = tf.tidy(() => {
        const left = uploadTrace(model, n, trace)
        const found = layerGradients(config, shape, layer, tables, left, at, wanted?.(number))
        return { picked: pick(found), ...(found.input ? { input: found.input } : {}) }
      })
      arena.own(picked)
      given = input && arena.own(input)
      await visit(number, picked)
      arena.free(at, picked)
    }
  } finally {
    disposeTables(tables)
  }
}

/** A trace on the backend again; for use in a tidy. */
function uploadTrace({ config, shape }: Omit<Layered, 'packed'>, n: number, trace: HostTrace): LayerTrace {
  const rows = (values: Float32Array) => tf.tensor2d(values, [n, config.hiddenSize])
  return {
    input: rows(trace.input),
    middle: rows(trace.middle),
    ...(trace.attended ? { attended: tf.tensor3d(trace.attended, [shape.queryHeads, n, shape.valueDim]) } : {}),
  }
}

/** The numbers of a tensor. */
export const floats = async (tensor: tf.Tensor): Promise<Float32Array> => (await tensor.data()) as Float32Array
