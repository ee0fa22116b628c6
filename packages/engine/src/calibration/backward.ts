// The forward pass of llama.ts, backwards: from the gradient of a loss at the output of a layer to its gradients at the layer's keys
// (before RoPE), values and input. Plain tfjs ops, written out (tfjs brings its own gradients to bundlers only, and its tape would keep every
// attention matrix); a layer is computed again from its stored input, attention by tiles of queries, so that no more than a tile
// times the tokens before it is in memory. Matrix products are 2-D and untransposed, which is where tfjs-wasm is fast.
import type { ModelShape } from '@kvloom/core'
import { embeddingRows, matmulPacked, mergeHeads, rmsNorm, rope, splitHeads, unpackWeight } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { activated, activationSlope } from '../activation'
import { linear, normHeads } from '../llama'
import type { ModelConfig } from '../models/config'
import type { LayerWeights, Linear, LlamaWeights } from '../weights'

/** Query rows whose attention is in memory at a time. */
const tileRows = 256
/** Token rows whose logits are in memory at a time. */
const lossRows = 128

/** What a layer of n tokens leaves for its backward pass. */
export interface LayerTrace {
  /** `[n, hidden]`, what the layer was given. */
  readonly input: tf.Tensor
  /** `[n, hidden]`, after attention was added. */
  readonly middle: tf.Tensor
}

/** Gradients of the loss. */
export interface LayerGradients {
  /** `[kvHeads, n, keyDim]`, before RoPE, after the norm per head. */
  readonly keys: tf.Tensor
  /** `[kvHeads, n, valueDim]` */
  readonly values: tf.Tensor
  /** `[n, hidden]` */
  readonly input: tf.Tensor
}

/** Cosines and sines of positions 0 … n - 1, and causal masks, for the sequence at hand. The caller's to dispose. */
export interface SequenceTables {
  /** Null for a model that does not rotate. */
  readonly rotation: { readonly cos: tf.Tensor; readonly sin: tf.Tensor; readonly positions: tf.Tensor } | null
  /** Per tile of queries `[rows, end]`: 0 for what they see, -1e30 for what comes later. */
  readonly masks: readonly tf.Tensor[]
}

export function sequenceTables({ rope }: ModelShape, n: number): SequenceTables {
  const masks = tilesOf(n, tileRows).map(({ start, end }) =>
    tf.tensor2d(
      Float32Array.from({ length: (end - start) * end }, (_, i) =>
        i % end <= start + Math.floor(i / end) ? 0 : -1e30,
      ),
      [end - start, end],
    ),
  )
  if (!rope) return { rotation: null, masks }
  const { frequencies, attentionFactor } = rope
  const pairs = frequencies.length
  const table = (wave: (angle: number) => number) =>
    tf.tensor2d(
      Float32Array.from(
        { length: n * pairs },
        (_, i) => wave(Math.floor(i / pairs) * (frequencies[i % pairs] ?? 0)) * attentionFactor,
      ),
      [n, pairs],
    )
  const positions = tf.tensor1d(
    Int32Array.from({ length: n }, (_, i) => i),
    'int32',
  )
  return { rotation: { cos: table(Math.cos), sin: table(Math.sin), positions }, masks }
}

/**
 * Gradient of the summed next-token loss, -Σ log softmax(logits[t])[ids[t + 1]], at the last layer's output.
 * @param hidden `[n, hidden]`, the last layer's output
 * @returns `[n, hidden]`; the last row, which predicts nothing, is 0
 */
export function lossGradient(
  config: ModelConfig,
  weights: LlamaWeights,
  hidden: tf.Tensor,
  ids: Int32Array,
): tf.Tensor {
  const { output, finalNorm } = weights
  return tf.tidy(() => {
    const matrix = unpackWeight(output) as tf.Tensor2D // [vocab, hidden]
    const normed = rmsNorm(hidden, finalNorm, config.rmsEpsilon) as tf.Tensor2D // [n, hidden]
    const parts = tilesOf(ids.length - 1, lossRows).map(({ start, end }) =>
      tf.tidy(() => {
        const chances = tf.softmax(matmulPacked(tf.slice(normed, [start, 0], [end - start, -1]), output)) as tf.Tensor2D // [rows, vocab]
        const next = embeddingRows(output, tf.tensor1d(ids.slice(start + 1, end + 1), 'int32')) // [rows, hidden]
        return tf.sub(tf.matMul(chances, matrix), next) as tf.Tensor2D
      }),
    )
    const silent = tf.zeros([1, config.hiddenSize]) as tf.Tensor2D
    return normGradient(hidden, finalNorm, config.rmsEpsilon, tf.concat([...parts, silent], 0))
  })
}

/** Gradients of one layer from that at its output, `[n, hidden]`. */
export function layerGradients(
  config: ModelConfig,
  shape: ModelShape,
  layer: LayerWeights,
  tables: SequenceTables,
  { input, middle }: LayerTrace,
  output: tf.Tensor,
): LayerGradients {
  const { queryHeads, kvHeads, rmsEpsilon } = config
  return tf.tidy(() => {
    const atMiddle = mlpGradient(config, layer, middle, output) // [n, hidden]
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
    const atNormed = sum([
      product(mergeHeads(headNormGradient(queries, layer.queryNorm, rmsEpsilon, at.queries)), layer.query),
      product(mergeHeads(headNormGradient(keys, layer.keyNorm, rmsEpsilon, at.keys)), layer.key),
      product(mergeHeads(at.values), layer.value),
    ]) // [n, hidden]
    return {
      keys: at.keys,
      values: at.values,
      input: tf.add(atMiddle, normGradient(input, layer.attentionNorm, rmsEpsilon, atNormed)),
    }
  })
}

/** From the gradient at hidden + down(act(gate) · up) to that at hidden, `[n, hidden]`. */
function mlpGradient(config: ModelConfig, layer: LayerWeights, hidden: tf.Tensor, output: tf.Tensor): tf.Tensor {
  const { activation, rmsEpsilon } = config
  return tf.tidy(() => {
    const normed = rmsNorm(hidden, layer.mlpNorm, rmsEpsilon) // [n, hidden]
    const gate = linear(normed, layer.gate) // [n, intermediate]
    const up = linear(normed, layer.up)
    const atInner = product(output, layer.down) // [n, intermediate]
    const atUp = tf.mul(atInner, activated(activation, gate))
    const atGate = tf.mul(tf.mul(atInner, up), activationSlope(activation, gate))
    const atNormed = tf.add(product(atGate, layer.gate), product(atUp, layer.up)) // [n, hidden]
    return tf.add(output, normGradient(hidden, layer.mlpNorm, rmsEpsilon, atNormed))
  })
}

/**
 * Causal attention, backwards: with S = scale · q kᵀ and P = softmax(S), dV = Pᵀ dO, dS = P ∘ (dO Vᵀ - rowsum(P ∘ dO Vᵀ)).
 * All before RoPE: queries `[queryHeads, n, keyDim]`, keys `[kvHeads, n, keyDim]`, values `[kvHeads, n, valueDim]`; `output`
 * `[queryHeads, n, valueDim]` is the gradient at what attention returns.
 */
function attentionGradient(
  { attentionScale, kvHeads, queryHeads }: ModelShape,
  { rotation, masks }: SequenceTables,
  queries: tf.Tensor,
  keys: tf.Tensor,
  values: tf.Tensor,
  output: tf.Tensor,
): { queries: tf.Tensor; keys: tf.Tensor; values: tf.Tensor } {
  const turn = (x: tf.Tensor, inverse: boolean): tf.Tensor =>
    rotation ? rope(x, rotation, rotation.positions, { inverse }) : x
  const scaled = tf.mul(turn(queries, false), attentionScale)
  const turned = turn(keys, false)
  const heads = Array.from({ length: queryHeads }, (_, head) => {
    const kvHead = Math.floor((head * kvHeads) / queryHeads)
    return headGradient(
      masks,
      headOf(scaled, head),
      headOf(turned, kvHead),
      headOf(values, kvHead),
      headOf(output, head),
    )
  })
  const group = queryHeads / kvHeads
  const perKvHead = (part: 'keys' | 'values'): tf.Tensor =>
    tf.stack(
      Array.from({ length: kvHeads }, (_, kvHead) =>
        sum(heads.slice(kvHead * group, (kvHead + 1) * group).map((head) => head[part])),
      ),
    )
  return {
    queries: turn(tf.mul(tf.stack(heads.map((head) => head.queries)), attentionScale), true),
    keys: turn(perKvHead('keys'), true),
    values: perKvHead('values'),
  }
}

type HeadGradients = { queries: tf.Tensor2D; keys: tf.Tensor2D; values: tf.Tensor2D }

/** One query head of it, after RoPE and scaling: q and k `[n, keyDim]`, v and the gradient at its output `[n, valueDim]`. */
function headGradient(
  masks: readonly tf.Tensor[],
  q: tf.Tensor2D,
  k: tf.Tensor2D,
  v: tf.Tensor2D,
  output: tf.Tensor2D,
): HeadGradients {
  const n = k.shape[0]
  return tf.tidy(() => {
    const kT = tf.transpose(k) // [keyDim, n]
    const vT = tf.transpose(v) // [valueDim, n]
    const tiles = masks.map((mask, tile) =>
      tf.tidy((): HeadGradients => {
        const [start, end] = [tile * tileRows, mask.shape[1] ?? 0]
        const qTile = rowsOf(q, start, end) // [rows, keyDim]
        const oTile = rowsOf(output, start, end) // [rows, valueDim]
        const p = tf.softmax(tf.add(tf.matMul(qTile, columnsOf(kT, end)), mask)) as tf.Tensor2D // [rows, end]
        const atP = tf.matMul(oTile, columnsOf(vT, end)) // [rows, end]
        const atS = tf.mul(p, tf.sub(atP, tf.sum(tf.mul(p, atP), 1, true))) as tf.Tensor2D // [rows, end]
        const allRows = (x: tf.Tensor2D): tf.Tensor2D =>
          tf.pad2d(x, [
            [0, n - end],
            [0, 0],
          ])
        return {
          queries: tf.matMul(atS, rowsOf(k, 0, end)),
          keys: allRows(tf.matMul(tf.transpose(atS), qTile)),
          values: allRows(tf.matMul(tf.transpose(p), oTile)),
        }
      }),
    )
    return {
      queries: tf.concat2d(
        tiles.map((tile) => tile.queries),
        0,
      ),
      keys: sum(tiles.map((tile) => tile.keys)),
      values: sum(tiles.map((tile) => tile.values)),
    }
  })
}

/** Sum of tensors of one shape, in their order. */
const sum = <T extends tf.Tensor>(parts: readonly T[]): T => parts.reduce((total, part) => tf.add(total, part))

/** From the gradient at x · wᵀ, `[n, out]`, to that at x, `[n, in]`. */
function product(gradient: tf.Tensor, { weight }: Linear): tf.Tensor {
  return tf.tidy(() => tf.matMul(gradient as tf.Tensor2D, unpackWeight(weight) as tf.Tensor2D))
}

/** RMSNorm backwards, `[n, width]`: with r = 1 / rms(x) and g = dy · w, dx = r (g - x r² mean(g x)). */
function normGradient(x: tf.Tensor, weight: tf.Tensor, epsilon: number, gradient: tf.Tensor): tf.Tensor {
  return tf.tidy(() => {
    const r = tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), epsilon)) // [n, 1]
    const g = tf.mul(gradient, weight)
    const along = tf.mul(tf.square(r), tf.mean(tf.mul(g, x), -1, true)) // [n, 1]
    return tf.mul(r, tf.sub(g, tf.mul(x, along)))
  })
}

/** The norm of each head backwards, `[heads, n, dim]`; nothing where the model has no such norm. */
function headNormGradient(x: tf.Tensor, weight: tf.Tensor | null, epsilon: number, gradient: tf.Tensor): tf.Tensor {
  return weight ? normGradient(x, weight, epsilon, gradient) : gradient
}

const headOf = (x: tf.Tensor, head: number): tf.Tensor2D => {
  const [, rows = 0, dim = 0] = x.shape
  return tf.reshape(tf.slice(x, [head, 0, 0], [1, -1, -1]), [rows, dim])
}
const rowsOf = (x: tf.Tensor2D, start: number, end: number): tf.Tensor2D => tf.slice(x, [start, 0], [end - start, -1])
const columnsOf = (x: tf.Tensor2D, end: number): tf.Tensor2D => tf.slice(x, [0, 0], [-1, end])

const tilesOf = (n: number, rows: number): { start: number; end: number }[] =>
  Array.from({ length: Math.ceil(n / rows) }, (_, i) => ({ start: i * rows, end: Math.min((i + 1) * rows, n) }))
