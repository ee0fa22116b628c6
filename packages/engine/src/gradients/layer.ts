// A layer of llama.ts, backwards: from the gradient of a loss at the output of a layer to its gradients at the layer's keys (before
// RoPE), values and input, and at those of its weights that are asked for. Plain tfjs ops, written out (tfjs brings its own gradients
// to bundlers only, and its tape would keep every attention matrix); a layer is computed again from its stored input. Matrix products
// are 2-D and untransposed, which is where tfjs-wasm is fast.
import type { ModelShape } from '@kvloom/core'
import { matmulPacked, mergeHeads, rmsNorm, splitHeads, unpackWeight } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { activated, activationSlope } from '../activation'
import { linear, normHeads } from '../llama'
import type { ModelConfig } from '../models/config'
import type { LayerWeights, Linear } from '../weights'
import { attentionGradient, sum } from './attention'
import { normGradient, normWeightGradient } from './norm'
import type { SequenceTables } from './tables'

/** What a layer of n tokens leaves for its backward pass. */
export interface LayerTrace {
  /** `[n, hidden]`, what the layer was given. */
  readonly input: tf.Tensor
  /** `[n, hidden]`, after attention was added. */
  readonly middle: tf.Tensor
  /** `[queryHeads, n, valueDim]`, what attention gave; needed for the gradient of `attention.output` alone. */
  readonly attended?: tf.Tensor
}

/** Which gradients are asked for besides those of keys and values. */
export interface GradientsWanted {
  /** Parts of a layer, as in `layers.N.attention.query`; biases under names of their own. */
  readonly weights: ReadonlySet<string>
  /** Whether the gradient at the layer's input is wanted. */
  readonly input: boolean
  /** Where the gradient that is given stands: at the layer's output, or after attention was added. */
  readonly at: 'output' | 'middle'
}

/** Gradients of the loss. */
export type LayerGradients = {
  /** `[kvHeads, n, keyDim]`, before RoPE, after the norm per head. */
  readonly keys: tf.Tensor
  /** `[kvHeads, n, valueDim]` */
  readonly values: tf.Tensor
  /** `[n, hidden]`; absent where it was not asked for. */
  readonly input?: tf.Tensor
  /** By part, in the weight's own shape. */
  readonly weights: Readonly<Record<string, tf.Tensor>>
}

const ALL_BUT_WEIGHTS: GradientsWanted = { weights: new Set(), input: true, at: 'output' }

/** Gradients of one layer from that at its output or its middle, `[n, hidden]`. */
export function layerGradients(
  config: ModelConfig,
  shape: ModelShape,
  layer: LayerWeights,
  tables: SequenceTables,
  { input, middle, attended }: LayerTrace,
  gradient: tf.Tensor,
  wanted: GradientsWanted = ALL_BUT_WEIGHTS,
): LayerGradients {
  const { queryHeads, kvHeads, rmsEpsilon } = config
  return tf.tidy(() => {
    const weights: Record<string, tf.Tensor> = {}
    const atWeights = new WeightGradients(wanted.weights, weights)
    const atMiddle = wanted.at === 'output' ? mlpGradient(config, layer, middle, gradient, atWeights) : gradient // [n, hidden]
    if (attended) atWeights.linear('attention.output', mergeHeads(attended), atMiddle)
    const normed = rmsNorm(input, layer.attentionNorm, rmsEpsilon) // [n, hidden]
    const queries = splitHeads(linear(normed, layer.query), queryHeads) // [queryHeads, n, keyDim], before the norm per head
    const keys = splitHeads(linear(normed, layer.key), kvHeads) // [kvHeads, n, keyDim]
    const at = attentionGradient(
      shape,
      tables,
      normHeads(queries, layer.queryNorm, rmsEpsilon),
      normHeads(keys, layer.keyNorm, rmsEpsilon),
      splitHeads(linear(normed, layer.value), kvHeads),
      splitHeads(product(atMiddle, layer.output), queryHeads), // [queryHeads, n, valueDim]
    )
    atWeights.norm('attention.queryNorm', queries, rmsEpsilon, at.queries)
    atWeights.norm('attention.keyNorm', keys, rmsEpsilon, at.keys)
    const atQueries = mergeHeads(headNormGradient(queries, layer.queryNorm, rmsEpsilon, at.queries)) // [n, queryHeads * keyDim]
    const atKeys = mergeHeads(headNormGradient(keys, layer.keyNorm, rmsEpsilon, at.keys))
    const atValues = mergeHeads(at.values)
    atWeights.linear('attention.query', normed, atQueries)
    atWeights.linear('attention.key', normed, atKeys)
    atWeights.linear('attention.value', normed, atValues)
    const found = { keys: at.keys, values: at.values, weights }
    if (!wanted.input && !wanted.weights.has('attentionNorm')) return found
    const atNormed = sum([product(atQueries, layer.query), product(atKeys, layer.key), product(atValues, layer.value)]) // [n, hidden]
    atWeights.norm('attentionNorm', input, rmsEpsilon, atNormed)
    const atInput = tf.add(atMiddle, normGradient(input, layer.attentionNorm, rmsEpsilon, atNormed))
    return { ...found, input: atInput }
  })
}

/** From the gradient at hidden + down(act(gate) · up) to that at hidden, `[n, hidden]`. */
function mlpGradient(
  config: ModelConfig,
  layer: LayerWeights,
  hidden: tf.Tensor,
  output: tf.Tensor,
  atWeights: WeightGradients,
): tf.Tensor {
  const { activation, rmsEpsilon } = config
  const normed = rmsNorm(hidden, layer.mlpNorm, rmsEpsilon) // [n, hidden]
  const gate = linear(normed, layer.gate) // [n, intermediate]
  const up = linear(normed, layer.up)
  const active = activated(activation, gate)
  if (atWeights.wantsLinear('mlp.down')) atWeights.linear('mlp.down', tf.mul(active, up), output)
  const atInner = product(output, layer.down) // [n, intermediate]
  const atUp = tf.mul(atInner, active)
  const atGate = tf.mul(tf.mul(atInner, up), activationSlope(activation, gate))
  atWeights.linear('mlp.gate', normed, atGate)
  atWeights.linear('mlp.up', normed, atUp)
  const atNormed = tf.add(product(atGate, layer.gate), product(atUp, layer.up)) // [n, hidden]
  atWeights.norm('mlpNorm', hidden, rmsEpsilon, atNormed)
  return tf.add(output, normGradient(hidden, layer.mlpNorm, rmsEpsilon, atNormed))
}

/** Collects the gradients of the weights that are asked for, and computes no others. */
class WeightGradients {
  constructor(
    private readonly wanted: ReadonlySet<string>,
    private readonly found: Record<string, tf.Tensor>,
  ) {}

  wantsLinear(part: string): boolean {
    return this.wanted.has(part) || this.wanted.has(`${part}.bias`)
  }

  /** Of y = x · wᵀ + b from x `[n, in]` and the gradient at y `[n, out]`. */
  linear(part: string, x: tf.Tensor, gradient: tf.Tensor): void {
    if (this.wanted.has(part))
      this.found[part] = tf.tidy(() => tf.matMul(tf.transpose(gradient as tf.Tensor2D), x as tf.Tensor2D)) // [out, in]
    if (this.wanted.has(`${part}.bias`)) this.found[`${part}.bias`] = tf.sum(gradient, 0)
  }

  /** Of an RMSNorm over the last axis of x. */
  norm(part: string, x: tf.Tensor, epsilon: number, gradient: tf.Tensor): void {
    if (this.wanted.has(part)) this.found[part] = normWeightGradient(x, epsilon, gradient)
  }
}

/** From the gradient at x · wᵀ, `[n, out]`, to that at x, `[n, in]`. */
function product(gradient: tf.Tensor, { weight, transposed }: Linear): tf.Tensor {
  if (transposed) return matmulPacked(gradient, transposed)
  return tf.tidy(() => tf.matMul(gradient as tf.Tensor2D, unpackWeight(weight) as tf.Tensor2D))
}

/** The norm of each head backwards, `[heads, n, dim]`; nothing where the model has no such norm. */
function headNormGradient(x: tf.Tensor, weight: tf.Tensor | null, epsilon: number, gradient: tf.Tensor): tf.Tensor {
  return weight ? normGradient(x, weight, epsilon, gradient) : gradient
}
