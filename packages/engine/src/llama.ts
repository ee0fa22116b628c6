// The forward pass of the Llama family (Llama 2 and 3, SmolLM2, Mistral, Qwen2, Qwen2.5, Qwen3), in the order of the maths.
// n tokens of one sequence go through at once. The cache is the only thing it talks to: it rotates, remembers and attends.
import type { KVCache, Phase } from '@kvloom/core'
import { embeddingRows, matmulPacked, mergeHeads, rmsNorm, splitHeads } from '@kvloom/kernels'
import { add, reshape, slice, type Tensor, type Tensor2D, tensor1d, tidy } from '@tensorflow/tfjs-core'
import { gated } from './activation'
import { Arena } from './arena'
import type { ModelConfig } from './models/config'
import type { LayerWeights, Linear, LlamaWeights } from './weights'

/** Which logits a step is asked for. Those of all positions are large: ask for slices of rows where a text is long. */
export type WantedLogits =
  | 'last'
  | 'all'
  | 'none'
  /** No logits: the hidden states after the final norm, `[n, hidden]`. */
  | 'hidden'
  /** Every row, `rows` at a time (default 64). `logits` `[rows, vocab]` begins at row `from` of the step and is freed after `visit`. */
  | { readonly visit: (from: number, logits: Tensor) => void | Promise<void>; readonly rows?: number }

/**
 * One step: n tokens through all layers, their keys and values into the cache.
 * @param ids token ids `[n]`, n at most `cache.chunkLimit`
 * @returns logits, owned by the caller: `[1, vocab]` for 'last', `[n, vocab]` for 'all'; `[n, hidden]` for 'hidden'; else null
 * After an error inside a step the cache holds a part of the step: go on from a `fork()` taken before.
 */
export async function llamaForward(
  config: ModelConfig,
  weights: LlamaWeights,
  cache: KVCache,
  ids: Int32Array,
  phase: Phase,
  wanted: WantedLogits,
): Promise<Tensor | null> {
  cache.begin(ids, phase)
  const arena = new Arena()
  try {
    let hidden = arena.own(embed(weights, ids)) // [n, hidden]
    for (const [number, layer] of weights.layers.entries()) {
      const ownsRows = cache.sourceLayer(number) === number
      const now = arena.own(
        ownsRows
          ? attentionInputs(config, layer, hidden, cache.wantsHidden?.(number))
          : queriesOnly(config, layer, hidden),
      )
      const attended = arena.own(await cache.attend(number, now)) // [queryHeads, n, valueDim]
      const next = arena.own(tidy(() => mlp(config, layer, afterAttention(layer, hidden, attended)))) // [n, hidden]
      arena.free(now, attended, hidden)
      hidden = next
    }
    await cache.commit()
    return await logitsOf(config, weights, hidden, wanted)
  } finally {
    arena.dispose()
  }
}

/** Rows of the embedding, `[n, hidden]`. */
export function embed(weights: LlamaWeights, ids: Int32Array): Tensor {
  return tidy(() => embeddingRows(weights.embedding, tensor1d(ids, 'int32')))
}

/**
 * Queries, keys and values of n tokens, before RoPE: `[queryHeads, n, keyDim]`, `[kvHeads, n, keyDim]`, `[kvHeads, n, valueDim]`. With
 * `keepsHidden` also what they were made of: hidden states after the layer's norm, `[n, hidden]`.
 */
export function attentionInputs(
  config: ModelConfig,
  layer: LayerWeights,
  hidden: Tensor,
  keepsHidden = false,
): { queries: Tensor; keys: Tensor; values: Tensor; hidden?: Tensor } {
  const { queryHeads, kvHeads, rmsEpsilon } = config
  return tidy(() => {
    const normed = rmsNorm(hidden, layer.attentionNorm, rmsEpsilon) // [n, hidden]
    return {
      queries: normHeads(splitHeads(linear(normed, layer.query), queryHeads), layer.queryNorm, rmsEpsilon),
      keys: normHeads(splitHeads(linear(normed, layer.key), kvHeads), layer.keyNorm, rmsEpsilon),
      values: splitHeads(linear(normed, layer.value), kvHeads),
      ...(keepsHidden ? { hidden: normed } : {}),
    }
  })
}

/** Queries `[queryHeads, n, keyDim]` of a layer that reads the keys and values of an earlier one. */
function queriesOnly(config: ModelConfig, layer: LayerWeights, hidden: Tensor): { queries: Tensor } {
  const { queryHeads, rmsEpsilon } = config
  return tidy(() => {
    const normed = rmsNorm(hidden, layer.attentionNorm, rmsEpsilon) // [n, hidden]
    return { queries: normHeads(splitHeads(linear(normed, layer.query), queryHeads), layer.queryNorm, rmsEpsilon) }
  })
}

/** hidden + output(attended), `[n, hidden]`; `attended` `[queryHeads, n, valueDim]`. */
export function afterAttention(layer: LayerWeights, hidden: Tensor, attended: Tensor): Tensor {
  return tidy(() => add(hidden, linear(mergeHeads(attended), layer.output)))
}

/** hidden + down(act(gate) · up), `[n, hidden]`. */
export function mlp(config: ModelConfig, layer: LayerWeights, hidden: Tensor): Tensor {
  return tidy(() => {
    const normed = rmsNorm(hidden, layer.mlpNorm, config.rmsEpsilon) // [n, hidden]
    const inner = gated(config.activation, linear(normed, layer.gate), linear(normed, layer.up)) // [n, intermediate]
    return add(hidden, linear(inner, layer.down))
  })
}

/** `[n, in]` to `[n, out]`. */
export function linear(x: Tensor, { weight, bias }: Linear): Tensor {
  const product = matmulPacked(x, weight)
  return bias ? add(product, bias) : product
}

/** RMSNorm over the dims of every head, `[heads, n, dim]`; nothing where the model has no such norm. */
export function normHeads(x: Tensor, weight: Tensor | null, epsilon: number): Tensor {
  if (!weight) return x
  return reshape(rmsNorm(reshape(x, [-1, weight.size]), weight, epsilon), x.shape)
}

/** Final norm, and the output matrix on the rows that are wanted. */
async function logitsOf(
  config: ModelConfig,
  weights: LlamaWeights,
  hidden: Tensor,
  wanted: WantedLogits,
): Promise<Tensor | null> {
  if (wanted === 'none') return null
  if (wanted === 'hidden') return rmsNorm(hidden, weights.finalNorm, config.rmsEpsilon)
  const tokens = hidden.shape[0] ?? 0
  const logits = (from: number, rows: number): Tensor =>
    tidy(() => {
      const part = rows === tokens ? hidden : slice(hidden as Tensor2D, [from, 0], [rows, -1]) // [rows, hidden]
      return matmulPacked(rmsNorm(part, weights.finalNorm, config.rmsEpsilon), weights.output) // [rows, vocab]
    })
  if (wanted === 'last') return logits(tokens - 1, 1)
  if (wanted === 'all') return logits(0, tokens)
  const { visit, rows = 64 } = wanted
  for (let from = 0; from < tokens; from += rows) {
    const part = logits(from, Math.min(rows, tokens - from))
    try {
      await visit(from, part)
    } finally {
      part.dispose()
    }
  }
  return null
}
