/**
 * KV-Latent: every head of a pretrained model becomes narrower. Of queries and keys it keeps evenly spread channels, in whole
 * RoPE pairs; of values too, with the same input columns of the output projection; so the cache holds
 * kvHeads · (keyDim + valueDim) numbers per token. In the paper the small model is then trained, on a grid of rotation
 * frequencies that lacks the fastest eighth.
 *
 *   kept pair j = floor(j · pairs / keptPairs)     kept value channel j = floor(j · valueDim / keptValueDim)
 *
 * L. Shi et al., "KV-Latent: Dimensional-level KV Cache Reduction with Frequency-aware Rotary Positional Embedding"
 * (arXiv 2507.11273), section 3. What differs: nothing is trained here, so by default the kept pairs keep their own
 * frequencies and the logit scale stays 1 / sqrt(old dim), which equals the old heads without the other pairs (the paper's
 * grid with its 1 / sqrt(new dim) is `frequencies: 'modified'`); keys and values may keep any number of pairs and channels,
 * where the authors' code divides by whole numbers; biases are cut too.
 */
import {
  defineMethod,
  ModelMismatch,
  type ModelShape,
  type ModelWeights,
  OptionError,
  type OptionsOf,
  type Rope,
  type Stage,
} from '@kvloom/core'
import { gather, type Tensor, tensor1d, tidy } from '@tensorflow/tfjs-core'
import { modifiedFrequencies } from './frequencies'
import { kvLatentOptions } from './options'
import { kvLatentTraining } from './training'

type Options = OptionsOf<typeof kvLatentOptions>

/** A model with narrower heads: `transform` cuts the attention projections of every layer. */
export const kvLatent = defineMethod(
  {
    name: 'kv-latent',
    title: 'KV-Latent',
    summary: 'Narrower heads: every attention projection keeps evenly spread channels.',
    paper: {
      title: 'KV-Latent: Dimensional-level KV Cache Reduction with Frequency-aware Rotary Positional Embedding',
      link: 'https://arxiv.org/abs/2507.11273',
    },
    chunkInvariant: true,
  },
  kvLatentOptions,
  (options) => {
    const { keyDim, frequencies } = options
    if (keyDim !== null && keyDim % 2 !== 0)
      throw new OptionError('kv-latent', 'keyDim', keyDim, 'an even number: channels stay in pairs')
    if (keyDim !== null && keyDim % 4 !== 0 && frequencies === 'modified')
      throw new OptionError('kv-latent', 'keyDim', keyDim, "with frequencies 'modified', a multiple of 4")
    const stage: Stage<'model'> = {
      kind: 'model',
      id: 'kv-latent',
      options,
      when: 'load',
      // Later stages see the rows of the new model: its own dims, plain keys and values. 0 is half of the old model's.
      accepts: (space) => ({ ...space, dim: (space.part === 'keys' ? keyDim : options.valueDim) || null }),
      training: kvLatentTraining,
      bind: () => ({ transform: (weights) => narrower(weights, options) }),
    }
    return { stages: [stage] }
  },
)

/** The channels of a head that stay. */
interface Kept {
  /** Keys and queries: first halves of the pairs, then second halves. */
  readonly keys: readonly number[]
  readonly values: readonly number[]
}

/** `[out, in]` weights of the narrower model; each is cut when it is asked for. @throws ModelMismatch */
function narrower(weights: ModelWeights, options: Options): ModelWeights {
  const { shape: model } = weights
  const keyDim = options.keyDim ?? model.keyDim / 2
  const valueDim = options.valueDim ?? Math.floor(model.valueDim / 2)
  const pairs = keptPairs(weights, keyDim)
  if (valueDim > model.valueDim)
    throw misfit(`a value head has ${model.valueDim} channels, ${valueDim} are asked for.`, 'Ask for fewer.')
  const kept: Kept = {
    keys: [...pairs, ...pairs.map((pair) => pair + model.keyDim / 2)],
    values: spread(model.valueDim, valueDim),
  }
  return {
    shape: narrowerShape(model, keyDim, valueDim, pairs, options),
    names: () => weights.names(),
    async get(name) {
      const cut = cutOf(name, model, kept)
      const weight = await weights.get(name)
      if (!cut || cut.stays.length === cut.of) return weight
      try {
        return takeChannels(weight, cut.axis, cut.stays)
      } finally {
        weight.dispose()
      }
    },
  }
}

/** `count` of `from` numbers, evenly spread, the first one among them. */
const spread = (from: number, count: number): number[] =>
  Array.from({ length: count }, (_, j) => Math.floor((j * from) / count))

/** @throws ModelMismatch for models whose pairs cannot be dropped. */
function keptPairs(weights: ModelWeights, keyDim: number): readonly number[] {
  const { shape: model } = weights
  if (keyDim % 2 !== 0 || keyDim > model.keyDim)
    throw misfit(`a key head has ${model.keyDim} channels in pairs, ${keyDim} cannot be kept.`, 'Ask for fewer pairs.')
  if (model.rope?.dim !== model.keyDim)
    throw misfit('its RoPE does not rotate whole heads, and it keeps whole pairs.', 'Use a model that rotates them.')
  if (keyDim < model.keyDim && weights.names().some((name) => /\.attention\.(query|key)Norm$/.test(name)))
    throw misfit(
      'it normalizes each query and key head over all its channels, which no slice of the weights does.',
      `Keep all ${model.keyDim} channels of keys and drop channels of values only.`,
    )
  return spread(model.keyDim / 2, keyDim / 2)
}

function narrowerShape(
  model: ModelShape,
  keyDim: number,
  valueDim: number,
  pairs: readonly number[],
  { frequencies }: Options,
): ModelShape {
  const modified = frequencies === 'modified'
  return Object.freeze({
    ...model,
    keyDim,
    valueDim,
    rope: model.rope && narrowerRope(model.rope, keyDim, pairs, modified),
    attentionScale: modified ? 1 / Math.sqrt(keyDim) : model.attentionScale,
    fingerprint: `${model.fingerprint}+kv-latent(keyDim=${keyDim},valueDim=${valueDim},frequencies=${frequencies})`,
  })
}

function narrowerRope(rope: Rope, dim: number, pairs: readonly number[], modified: boolean): Rope {
  if (modified) return { ...rope, dim, frequencies: modifiedFrequencies(rope, dim) }
  if (dim === rope.dim) return rope
  return { ...rope, dim, frequencies: Float64Array.from(pairs, (pair) => rope.frequencies[pair] ?? 0) }
}

/** Along which axis a weight is cut, and what stays of it; null for weights that stay whole. */
function cutOf(
  name: string,
  { queryHeads, kvHeads, keyDim, valueDim }: ModelShape,
  kept: Kept,
): { readonly axis: 0 | 1; readonly of: number; readonly stays: readonly number[] } | null {
  const cut = (axis: 0 | 1, heads: number, dim: number, channels: readonly number[]) => ({
    axis,
    of: heads * dim,
    stays: Array.from({ length: heads }, (_, head) => channels.map((channel) => head * dim + channel)).flat(),
  })
  switch (/^layers\.\d+\.attention\.((?:query|key|value)(?=\.bias$|$)|output$)/.exec(name)?.[1]) {
    case 'query':
      return cut(0, queryHeads, keyDim, kept.keys)
    case 'key':
      return cut(0, kvHeads, keyDim, kept.keys)
    case 'value':
      return cut(0, kvHeads, valueDim, kept.values)
    case 'output':
      return cut(1, queryHeads, valueDim, kept.values)
    default:
      return null
  }
}

/** Rows (axis 0, weights and biases) or columns (axis 1) of a weight. */
const takeChannels = (weight: Tensor, axis: 0 | 1, channels: readonly number[]): Tensor =>
  tidy(() => gather(weight, tensor1d(Int32Array.from(channels), 'int32'), axis))

const misfit = (reason: string, cure: string): ModelMismatch => new ModelMismatch('kv-latent', reason, cure)
