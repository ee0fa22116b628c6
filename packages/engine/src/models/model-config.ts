// The sizes and constants of a model, read from GGUF metadata or from a Hugging Face config.json into one shape.
import { ModelFileError, UnsupportedArchitectureError } from '../errors'
import type { GgufFile, GgufValue } from '../files/gguf'
import { type Activation, readActivation } from './activations'
import { endIdsOfGguf, endIdsOfHuggingFace } from './end-ids'
import {
  type Architecture,
  type BiasFlags,
  biasesOf,
  biasGroups,
  checkArchitecture,
  familyRules,
  ggufArchitectures,
  supportedArchitectures,
} from './families'
import { readGgufRope } from './gguf-rope'
import { readRopeScaling } from './hugging-face-rope'
import { readExtras } from './kvloom-config'
import { type SettingsReader, settingsReader } from './settings-reader'
import { canonicalPart } from './tensor-names'
import { readWindows, type SlidingWindows } from './windows'

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
function checked(file: string, config: ModelConfig): ModelConfig {
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

/**
 * Reads the metadata of a GGUF file.
 * @param ropeFactors the values of its `rope_freqs.weight`, if it has one
 * @throws ModelFileError, UnsupportedArchitectureError
 */
export function configFromGguf(file: string, gguf: GgufFile, ropeFactors: readonly number[] | undefined): ModelConfig {
  const { metadata, tensors } = gguf
  const general: GgufValue | undefined = metadata.get('general.architecture')
  if (typeof general !== 'string') {
    throw new ModelFileError('BAD_METADATA', {
      given: `${file} without general.architecture`,
      allowed: 'the name of an architecture',
      cure: 'This GGUF file holds no model.',
    })
  }
  const architecture = checkArchitecture(general, ggufArchitectures)
  const read = settingsReader(file, (key) => metadata.get(key.startsWith('tokenizer.') ? key : `${general}.${key}`))
  refuseExperts(architecture, read.given('expert_count'))
  const layers = read.count('block_count')
  const hiddenSize = read.count('embedding_length')
  const queryHeads = read.uniformCount('attention.head_count', layers)
  const keyDim = read.count('attention.key_length', Math.floor(hiddenSize / queryHeads))
  const tokens = metadata.get('tokenizer.ggml.tokens')
  const name = metadata.get('general.name')
  const vocabSize =
    tensors.get('token_embd.weight')?.shape[0] ??
    read.count('vocab_size', Array.isArray(tokens) ? tokens.length : undefined)
  const contextLength = read.count('context_length')
  const window = 'attention.sliding_window' // 0 means none
  return checked(file, {
    architecture,
    name: typeof name === 'string' ? name : undefined,
    layers,
    hiddenSize,
    intermediateSize: read.uniformCount('feed_forward_length', layers),
    queryHeads,
    kvHeads: read.uniformCount('attention.head_count_kv', layers, queryHeads),
    keyDim,
    valueDim: read.count('attention.value_length', keyDim),
    vocabSize,
    contextLength,
    slidingWindow: read.given(window) === 0 || !read.present(window) ? undefined : read.count(window),
    rmsEpsilon: read.number('attention.layer_norm_rms_epsilon'),
    activation: 'silu', // llama.cpp knows no other in these families
    rope: readGgufRope(file, read, { keyDim, contextLength }, ropeFactors),
    attentionScale: undefined,
    transformedBy: undefined,
    tiedEmbeddings: !tensors.has('output.weight'),
    ...ggufBiases(architecture, tensors),
    qkNorm: familyRules(architecture).qkNorm,
    bosId: read.id('tokenizer.ggml.bos_token_id'),
    eosIds: endIdsOfGguf(metadata, vocabSize).ids,
  })
}

/** A GGUF file does not say which biases its model has: one of a group, in any layer, says that the model has all of them. */
function ggufBiases(architecture: Architecture, tensors: ReadonlyMap<string, unknown>): BiasFlags {
  const found = new Set([...tensors.keys()].map(canonicalPart))
  return biasesOf(architecture, (group) => biasGroups[group].some((part) => found.has(part)))
}

/** A mixture of experts says the name of a family whose dense models are computed. */
function refuseExperts(architecture: Architecture, count: unknown): void {
  if (typeof count === 'number' && count > 0)
    throw new UnsupportedArchitectureError(`${architecture}, a mixture of ${count} experts`, supportedArchitectures)
}

/**
 * Reads a Hugging Face config.json (and generation_config.json, which may add end-of-text ids). What it leaves out is what
 * huggingface/transformers 4.56 takes for it.
 * @throws ModelFileError, UnsupportedArchitectureError
 */
export function configFromHuggingFace(
  file: string,
  config: Readonly<Record<string, unknown>>,
  generation: Readonly<Record<string, unknown>> = {},
): ModelConfig {
  const read = settingsReader(file, (key) => config[key])
  const type = config['model_type']
  const extras = readExtras(file, config)
  const architecture = checkArchitecture(typeof type === 'string' ? type.replace(/^kvloom-/, '') : 'unnamed')
  refuseExperts(architecture, config['num_local_experts'] ?? config['num_experts'])
  refuseQuantized(file, config['quantization_config'])
  const family = familyRules(architecture)
  const layers = read.count('num_hidden_layers')
  const hiddenSize = read.count('hidden_size')
  const queryHeads = read.count('num_attention_heads')
  // Null means what an absent key means to the oldest models: one KV head for each query head, hidden size / heads channels.
  const kvHeads = config['num_key_value_heads'] === null ? queryHeads : (family.kvHeads ?? queryHeads)
  const headDim = config['head_dim'] === null ? undefined : family.headDim
  const keyDim = read.count('head_dim', headDim ?? Math.floor(hiddenSize / queryHeads))
  const contextLength = read.count('max_position_embeddings')
  const vocabSize = read.count('vocab_size')
  const name = config['_name_or_path']
  // Transformers 5 writes theta, scaling and the rotated part together into rope_parameters.
  const scaling = asObject(config['rope_parameters'] ?? config['rope_scaling'])
  const theta = typeof scaling?.['rope_theta'] === 'number' ? scaling['rope_theta'] : read.number('rope_theta', 10_000)
  const inBlock = scaling?.['partial_rotary_factor']
  const partial = typeof inBlock === 'number' ? inBlock : read.number('partial_rotary_factor', 1)
  const bos = read.id('bos_token_id')
  return checked(file, {
    architecture,
    name: typeof name === 'string' && name ? name : undefined,
    layers,
    hiddenSize,
    intermediateSize: read.count('intermediate_size'),
    queryHeads,
    kvHeads: read.count('num_key_value_heads', kvHeads),
    keyDim,
    valueDim: extras?.valueDim ?? keyDim,
    vocabSize,
    contextLength,
    ...readWindows(read, architecture, layers),
    rmsEpsilon: read.number('rms_norm_eps', 1e-6),
    activation: readActivation(read),
    rope: {
      theta,
      dim: extras?.rope?.dim ?? Math.floor(keyDim * partial),
      scaling: extras?.rope?.scaling ?? readRopeScaling(file, scaling, contextLength),
    },
    attentionScale: extras?.attentionScale,
    transformedBy: extras?.transformedBy,
    tiedEmbeddings: read.flag('tie_word_embeddings', false),
    ...huggingFaceBiases(read, architecture),
    qkNorm: family.qkNorm,
    bosId: bos,
    eosIds: endIdsOfHuggingFace(config, generation, vocabSize).ids,
  })
}

function huggingFaceBiases(read: SettingsReader, architecture: Architecture): BiasFlags {
  const attention = read.flag('attention_bias', false)
  const mlp = read.flag('mlp_bias', false)
  return biasesOf(architecture, (group) => (group === 'mlpBias' ? mlp : attention))
}

/** Packed weights of other software (GPTQ, AWQ, 8-bit floats, bitsandbytes) are in no format that this engine reads. */
function refuseQuantized(file: string, block: unknown): void {
  if (block === undefined || block === null) return
  const method = asObject(block)?.['quant_method']
  throw new ModelFileError('UNSUPPORTED_TENSOR_TYPE', {
    given: `${file}, weights quantized by ${typeof method === 'string' ? method : 'quantization_config'}`,
    allowed: 'weights in f32, f16 or bf16, or a GGUF file',
    cure: 'Use the original model, or a GGUF file of it.',
  })
}

const asObject = (value: unknown): Record<string, unknown> | undefined =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
