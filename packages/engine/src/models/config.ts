// The sizes and constants of a model, in one shape for every kind of file. What they are made of stands here too, so that each reader
// of a part (families, windows, rope) can name these types and none of them needs another for it.
import { ModelFileError } from '../errors'
import type { Activation } from './activations'

/** Families the forward pass knows. */
export const supportedArchitectures = ['llama', 'mistral', 'qwen2', 'qwen3'] as const

/** A family the forward pass knows. */
export type Architecture = (typeof supportedArchitectures)[number]

/** Groups of biases, each of which a model has in every layer or in none. */
export interface BiasFlags {
  /** Query, key and value projections have biases. */
  readonly attentionBias: boolean
  /** The output projection of attention has a bias; absent: it has none. */
  readonly outputBias?: true
  /** Gate, up and down projections have biases; absent: they have none. */
  readonly mlpBias?: true
}

/** The window of a model. */
export interface SlidingWindows {
  /** Tokens that a layer with a window looks back; undefined where no layer has one. */
  readonly slidingWindow: number | undefined
  /** The layers that have it, where these are not all. */
  readonly windowLayers?: readonly number[]
}

/** How the RoPE frequencies are changed for long contexts. */
export type RopeScaling =
  | { readonly kind: 'none' }
  /** Positions divided by `factor`. */
  | { readonly kind: 'linear'; readonly factor: number }
  /** Llama 3: low frequencies divided by `factor`, a smooth blend between the two borders. */
  | {
      readonly kind: 'llama3'
      readonly factor: number
      readonly lowFrequencyFactor: number
      readonly highFrequencyFactor: number
      readonly originalContextLength: number
    }
  /** GGUF's form of the same: the i-th inverse frequency is divided by `factors[i]` (`dim / 2` of them). */
  | { readonly kind: 'factors'; readonly factors: readonly number[] }
  /** Angle per position of each pair, as they are: for models whose pairs were chosen or changed. */
  | { readonly kind: 'frequencies'; readonly frequencies: readonly number[]; readonly attentionFactor: number }
  /** YaRN (arXiv:2309.00071); `attentionFactor` multiplies cos and sin, `undefined` means 0.1 ln(factor) + 1. */
  | ({ readonly kind: 'yarn'; readonly factor: number; readonly attentionFactor: number | undefined } & YarnRamp)

/** Between which pairs YaRN goes over from leaving angles as they are to dividing them. */
export interface YarnRamp {
  readonly originalContextLength: number
  /** Turns over that context of the last pair that stays as it is. */
  readonly betaFast: number
  /** Turns of the first pair that is divided in full. */
  readonly betaSlow: number
  /** Ends of the ramp are rounded to whole pairs; absent: they are. */
  readonly truncate?: boolean
}

/** Everything the forward pass needs to know besides the weights. */
export interface ModelConfig extends BiasFlags, SlidingWindows {
  readonly architecture: Architecture
  /** Name the file gives the model, if any. */
  readonly name: string | undefined
  readonly layers: number
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly queryHeads: number
  readonly kvHeads: number
  /** Width of a query and key head. */
  readonly keyDim: number
  /** Width of a value head. */
  readonly valueDim: number
  readonly vocabSize: number
  /** Longest context the model was made for, in tokens. */
  readonly contextLength: number
  readonly rmsEpsilon: number
  /** What the gate of the MLP goes through. */
  readonly activation: Activation
  readonly rope: {
    readonly theta: number
    /** Leading dims of a head that are rotated, in pairs (i, i + dim / 2). */
    readonly dim: number
    readonly scaling: RopeScaling
  }
  /** Multiplies q . k; undefined: 1 / sqrt(keyDim). */
  readonly attentionScale: number | undefined
  /** Ids of the 'model' stages that these weights went through. */
  readonly transformedBy: readonly string[] | undefined
  /** The output matrix is the embedding; there is no tensor `output`. */
  readonly tiedEmbeddings: boolean
  /** Queries and keys are RMS-normed per head before RoPE (Qwen3). */
  readonly qkNorm: boolean
  readonly bosId: number | undefined
  /** Ids that end generation; may be empty. */
  readonly eosIds: readonly number[]
}

/** Heads and dims must fit together, or every later shape is nonsense. @throws ModelFileError */
export function checkConfig(file: string, config: ModelConfig): ModelConfig {
  const refuse = (given: string, allowed: string): never => {
    throw new ModelFileError('BAD_METADATA', {
      given: `${file}, ${given}`,
      allowed,
      cure: 'The file is damaged; fetch it again.',
    })
  }
  if (config.queryHeads % config.kvHeads !== 0)
    refuse(`${config.queryHeads} query heads on ${config.kvHeads} KV heads`, 'query heads a multiple of KV heads')
  if (config.rope.dim > config.keyDim || config.rope.dim % 2 !== 0)
    refuse(`RoPE over ${config.rope.dim} of ${config.keyDim} dims`, 'an even number of at most the head dim')
  return config
}
