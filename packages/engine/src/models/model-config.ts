// The sizes and constants of a model, read from GGUF metadata or from a Hugging Face config.json into one shape.
import { ModelFileError, UnsupportedArchitectureError } from '../errors'
import type { GgufFile, GgufValue } from '../files/gguf'
import { endIdsOfGguf, endIdsOfHuggingFace } from './end-ids'
import { readExtras } from './kvloom-config'

/** Families the forward pass knows. */
export const supportedArchitectures = ['llama', 'mistral', 'qwen2', 'qwen3'] as const

/** A family the forward pass knows. */
export type Architecture = (typeof supportedArchitectures)[number]

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
  | {
      readonly kind: 'yarn'
      readonly factor: number
      readonly originalContextLength: number
      readonly betaFast: number
      readonly betaSlow: number
      readonly attentionFactor: number | undefined
    }

/** Everything the forward pass needs to know besides the weights. */
export interface ModelConfig {
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
  /** Tokens a sliding-window layer looks back, `undefined` for full attention. */
  readonly slidingWindow: number | undefined
  readonly rmsEpsilon: number
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
  /** Query, key and value projections have biases. */
  readonly attentionBias: boolean
  /** Queries and keys are RMS-normed per head before RoPE (Qwen3). */
  readonly qkNorm: boolean
  readonly bosId: number | undefined
  /** Ids that end generation; may be empty. */
  readonly eosIds: readonly number[]
}

/** The architecture, or `UnsupportedArchitectureError` naming the supported ones. */
export function checkArchitecture(name: string): Architecture {
  const found = supportedArchitectures.find((each) => each === name)
  if (!found) throw new UnsupportedArchitectureError(name, supportedArchitectures)
  return found
}

type Given = (key: string) => unknown

/** Typed access to untyped settings; a missing or wrong value is `ModelFileError('bad-metadata')` naming file and key. */
function reader(file: string, given: Given) {
  const refuse = (key: string, allowed: string): never => {
    const value = given(key)
    throw new ModelFileError('bad-metadata', {
      given: `${file}, ${key} ${value === undefined ? 'missing' : `= ${JSON.stringify(value)}`}`,
      allowed,
      cure: 'The file is damaged or its converter left this out; fetch or convert it again.',
    })
  }
  const present = (key: string) => given(key) !== undefined && given(key) !== null
  return {
    count(key: string, fallback?: number): number {
      if (!present(key) && fallback !== undefined) return fallback
      const value = given(key)
      return typeof value === 'number' && Number.isInteger(value) && value > 0 && value < 2 ** 31
        ? value
        : refuse(key, 'a positive integer')
    },
    number(key: string, fallback?: number): number {
      if (!present(key) && fallback !== undefined) return fallback
      const value = given(key)
      return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : refuse(key, 'a positive number')
    },
    optionalNumber(key: string): number | undefined {
      return present(key) ? this.number(key) : undefined
    },
    id(key: string): number | undefined {
      if (!present(key)) return undefined
      const value = given(key)
      return typeof value === 'number' && Number.isInteger(value) && value >= 0 ? value : refuse(key, 'a token id')
    },
    flag(key: string, fallback: boolean): boolean {
      if (!present(key)) return fallback
      const value = given(key)
      return typeof value === 'boolean' ? value : refuse(key, 'true or false')
    },
    refuse,
  }
}

/** Heads and dims must fit together, or every later shape is nonsense. */
function checked(file: string, config: ModelConfig): ModelConfig {
  const refuse = (given: string, allowed: string): never => {
    throw new ModelFileError('bad-metadata', {
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

/** Reads the metadata of a GGUF file. `ropeFactors` are the values of its `rope_freqs.weight`, if it has one. */
export function configFromGguf(file: string, gguf: GgufFile, ropeFactors: readonly number[] | undefined): ModelConfig {
  const { metadata, tensors } = gguf
  const general: GgufValue | undefined = metadata.get('general.architecture')
  if (typeof general !== 'string') {
    throw new ModelFileError('bad-metadata', {
      given: `${file} without general.architecture`,
      allowed: 'the name of an architecture',
      cure: 'This GGUF file holds no model.',
    })
  }
  const architecture = checkArchitecture(general)
  const read = reader(file, (key) => metadata.get(key.startsWith('tokenizer.') ? key : `${general}.${key}`))
  const hiddenSize = read.count('embedding_length')
  const queryHeads = read.count('attention.head_count')
  const keyDim = read.count('attention.key_length', Math.floor(hiddenSize / queryHeads))
  const tokens = metadata.get('tokenizer.ggml.tokens')
  const name = metadata.get('general.name')
  const vocabSize =
    tensors.get('token_embd.weight')?.shape[0] ??
    read.count('vocab_size', Array.isArray(tokens) ? tokens.length : undefined)
  const contextLength = read.count('context_length')
  return checked(file, {
    architecture,
    name: typeof name === 'string' ? name : undefined,
    layers: read.count('block_count'),
    hiddenSize,
    intermediateSize: read.count('feed_forward_length'),
    queryHeads,
    kvHeads: read.count('attention.head_count_kv', queryHeads),
    keyDim,
    valueDim: read.count('attention.value_length', keyDim),
    vocabSize,
    contextLength,
    slidingWindow: read.optionalNumber('attention.sliding_window'),
    rmsEpsilon: read.number('attention.layer_norm_rms_epsilon'),
    rope: {
      theta: read.number('rope.freq_base', 10_000),
      dim: read.count('rope.dimension_count', keyDim),
      scaling: ropeFactors
        ? { kind: 'factors', factors: ropeFactors }
        : ggufScaling(read, metadata.get(`${general}.rope.scaling.type`), contextLength),
    },
    attentionScale: undefined,
    transformedBy: undefined,
    tiedEmbeddings: !tensors.has('output.weight'),
    attentionBias: tensors.has('blk.0.attn_q.bias'),
    qkNorm: tensors.has('blk.0.attn_q_norm.weight'),
    bosId: read.id('tokenizer.ggml.bos_token_id'),
    eosIds: endIdsOfGguf(metadata, vocabSize).ids,
  })
}

function ggufScaling(read: ReturnType<typeof reader>, type: GgufValue | undefined, contextLength: number): RopeScaling {
  if (type === undefined || type === 'none') return { kind: 'none' }
  const factor = read.number('rope.scaling.factor', 1)
  if (type === 'linear') return factor === 1 ? { kind: 'none' } : { kind: 'linear', factor }
  if (type === 'yarn') {
    const originalContextLength = read.count('rope.scaling.original_context_length', contextLength)
    const betaFast = read.number('rope.scaling.yarn_beta_fast', 32)
    const betaSlow = read.number('rope.scaling.yarn_beta_slow', 1)
    return {
      kind: 'yarn',
      factor,
      originalContextLength,
      betaFast,
      betaSlow,
      attentionFactor: read.optionalNumber('rope.scaling.attn_factor'),
    }
  }
  return read.refuse('rope.scaling.type', 'none, linear, yarn')
}

/** Reads a Hugging Face config.json (and generation_config.json, which may add end-of-text ids). */
export function configFromHuggingFace(
  file: string,
  config: Readonly<Record<string, unknown>>,
  tensorNames: ReadonlySet<string>,
  generation: Readonly<Record<string, unknown>> = {},
): ModelConfig {
  const read = reader(file, (key) => config[key])
  const type = config['model_type']
  const extras = readExtras(file, config)
  const architecture = checkArchitecture(typeof type === 'string' ? type.replace(/^kvloom-/, '') : 'unnamed')
  const hiddenSize = read.count('hidden_size')
  const queryHeads = read.count('num_attention_heads')
  const keyDim = read.count('head_dim', Math.floor(hiddenSize / queryHeads))
  const contextLength = read.count('max_position_embeddings')
  const windowed = architecture === 'mistral' || (architecture !== 'llama' && read.flag('use_sliding_window', false))
  const vocabSize = read.count('vocab_size')
  const name = config['_name_or_path']
  // Transformers 5 writes theta and scaling together into rope_parameters.
  const scaling = asObject(config['rope_parameters'] ?? config['rope_scaling'])
  const theta = typeof scaling?.['rope_theta'] === 'number' ? scaling['rope_theta'] : read.number('rope_theta', 10_000)
  const partial = read.number('partial_rotary_factor', 1)
  const bos = read.id('bos_token_id')
  return checked(file, {
    architecture,
    name: typeof name === 'string' && name ? name : undefined,
    layers: read.count('num_hidden_layers'),
    hiddenSize,
    intermediateSize: read.count('intermediate_size'),
    queryHeads,
    kvHeads: read.count('num_key_value_heads', queryHeads),
    keyDim,
    valueDim: extras?.valueDim ?? keyDim,
    vocabSize,
    contextLength,
    slidingWindow: windowed ? read.optionalNumber('sliding_window') : undefined,
    rmsEpsilon: read.number('rms_norm_eps', 1e-6),
    rope: {
      theta,
      dim: extras?.rope?.dim ?? Math.floor(keyDim * partial),
      scaling: extras?.rope?.scaling ?? huggingFaceScaling(file, scaling, contextLength),
    },
    attentionScale: extras?.attentionScale,
    transformedBy: extras?.transformedBy,
    tiedEmbeddings: read.flag('tie_word_embeddings', !tensorNames.has('lm_head.weight')),
    attentionBias: tensorNames.has('model.layers.0.self_attn.q_proj.bias'),
    qkNorm: tensorNames.has('model.layers.0.self_attn.q_norm.weight'),
    bosId: bos,
    eosIds: endIdsOfHuggingFace(config, generation, vocabSize).ids,
  })
}

const asObject = (value: unknown): Record<string, unknown> | undefined =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined

function huggingFaceScaling(
  file: string,
  scaling: Record<string, unknown> | undefined,
  contextLength: number,
): RopeScaling {
  const kind = scaling?.['rope_type'] ?? scaling?.['type']
  if (!scaling || kind === undefined || kind === 'default') return { kind: 'none' }
  const read = reader(`${file}, rope_scaling`, (key) => scaling[key])
  if (kind === 'linear') return { kind: 'linear', factor: read.number('factor') }
  if (kind === 'llama3') {
    return {
      kind: 'llama3',
      factor: read.number('factor'),
      lowFrequencyFactor: read.number('low_freq_factor'),
      highFrequencyFactor: read.number('high_freq_factor'),
      originalContextLength: read.count('original_max_position_embeddings'),
    }
  }
  if (kind === 'yarn') {
    return {
      kind: 'yarn',
      factor: read.number('factor'),
      originalContextLength: read.count('original_max_position_embeddings', contextLength),
      betaFast: read.number('beta_fast', 32),
      betaSlow: read.number('beta_slow', 1),
      attentionFactor: read.optionalNumber('attention_factor'),
    }
  }
  return read.refuse(scaling['rope_type'] === undefined ? 'type' : 'rope_type', 'default, linear, llama3, yarn')
}
