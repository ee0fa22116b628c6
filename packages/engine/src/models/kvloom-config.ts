// What Hugging Face's config.json cannot say of a model, as the block "kvloom" of that file; read and written. A model that needs it has
// model_type "kvloom-<architecture>", so that other tools refuse it instead of running it wrongly.
//
//   "kvloom": {
//     "version": 1,
//     "value_dim": 24,                                                        where it is not head_dim
//     "rope": { "dim": 32, "frequencies": [...], "attention_factor": 1 },    angle per position of each of dim / 2 pairs
//     "attention_scale": 0.125,                                               where it is not 1 / sqrt(head_dim)
//     "transformed_by": ["kv-latent"],                                        'model' stages that the weights went through
//     "digest": "...", "fingerprint": "..."                                   the fingerprint of what has this digest
//   }
import { ModelFileError, type ModelFileErrorCode } from '../errors'
import { ropeOf } from '../rope'
import { activationName } from './activations'
import type { ModelConfig, RopeScaling } from './config'
import { writeRopeScaling } from './hugging-face-rope'
import { writeWindows } from './windows'

type Settings = Readonly<Record<string, unknown>>

const version = 1
const prefix = 'kvloom-'
const known = ['version', 'value_dim', 'rope', 'attention_scale', 'transformed_by', 'digest', 'fingerprint']

/** The fingerprint that a model had when it was saved, and the digest of what was written. */
export interface SavedIdentity {
  readonly digest: string
  readonly fingerprint: string
}

/** What the block adds to a configuration. */
export interface Extras {
  readonly valueDim: number | undefined
  readonly rope: { readonly dim: number; readonly scaling: RopeScaling & { kind: 'frequencies' } } | undefined
  readonly attentionScale: number | undefined
  readonly transformedBy: readonly string[] | undefined
}

const asObject = (value: unknown): Settings | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Settings) : undefined

/** Reads the block, strictly: what is not understood is refused. Undefined where there is none. */
export function readExtras(file: string, config: Settings): Extras | undefined {
  const needed = String(config['model_type']).startsWith(prefix)
  const refuse = (key: string, value: unknown, allowed: string, code: ModelFileErrorCode = 'BAD_METADATA'): never => {
    throw new ModelFileError(code, {
      given: `${file}, kvloom${key && `.${key}`} ${value === undefined ? 'missing' : `= ${JSON.stringify(value)}`}`,
      allowed,
      cure: 'The file is damaged or was written by another version of kvloom; save the model again.',
    })
  }
  const given = config['kvloom']
  if (given === undefined && !needed) return undefined
  const block = asObject(given) ?? refuse('', given, 'an object')
  if (block['version'] !== version) refuse('version', block['version'], String(version), 'UNSUPPORTED_VERSION')
  const strange = Object.keys(block).find((key) => !known.includes(key))
  if (strange !== undefined) refuse(strange, block[strange], `only ${known.join(', ')}`)
  const positive = (of: Settings, at: string, key: string, whole = false): number => {
    const value = of[key]
    const fits = typeof value === 'number' && Number.isFinite(value) && value > 0 && (!whole || Number.isInteger(value))
    return fits ? value : refuse(at + key, value, whole ? 'a positive integer' : 'a positive number')
  }
  const optional = (key: string, whole = false) =>
    block[key] === undefined ? undefined : positive(block, '', key, whole)
  const rope = (value: unknown): Extras['rope'] => {
    const of = asObject(value) ?? refuse('rope', value, 'an object')
    const dim = positive(of, 'rope.', 'dim', true)
    const frequencies = of['frequencies']
    if (!isNumbers(frequencies) || frequencies.length !== dim / 2)
      return refuse('rope.frequencies', frequencies, `${dim / 2} numbers`)
    const attentionFactor = positive(of, 'rope.', 'attention_factor')
    return { dim, scaling: { kind: 'frequencies', frequencies, attentionFactor } }
  }
  const transformedBy = block['transformed_by']
  if (transformedBy !== undefined && !isStrings(transformedBy))
    return refuse('transformed_by', transformedBy, 'names of stages')
  return {
    valueDim: optional('value_dim', true),
    rope: block['rope'] === undefined ? undefined : rope(block['rope']),
    attentionScale: optional('attention_scale'),
    transformedBy,
  }
}

const isNumbers = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((each) => typeof each === 'number' && Number.isFinite(each))

const isStrings = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every((each) => typeof each === 'string')

/** Who the model was when it was saved, if the file says so. */
export function readIdentity(config: Settings): SavedIdentity | undefined {
  const { digest, fingerprint } = asObject(config['kvloom']) ?? {}
  return typeof digest === 'string' && typeof fingerprint === 'string' ? { digest, fingerprint } : undefined
}

/** config.json for a configuration: what Hugging Face has words for in its words, the rest in the block "kvloom". */
export function settingsOf(config: ModelConfig, saved?: SavedIdentity): Settings {
  const { keyDim, valueDim, rope, attentionScale, slidingWindow, transformedBy } = config
  const partial = rope.dim / keyDim
  // Llama's config has no window; a GGUF file of that family may: the context ends there, as the forward pass sees it.
  const shortened = config.architecture === 'llama' ? (slidingWindow ?? Infinity) : Infinity
  const scaling = writeRopeScaling(rope.scaling)
  const ropeFits = scaling !== undefined && Math.floor(keyDim * partial) === rope.dim
  const extras = {
    ...(valueDim === keyDim ? {} : { value_dim: valueDim }),
    ...(ropeFits ? {} : { rope: ropeBlock(rope) }),
    ...(attentionScale === undefined ? {} : { attention_scale: attentionScale }),
  }
  const extended = Object.keys(extras).length > 0
  const rest = { ...extras, ...(transformedBy ? { transformed_by: transformedBy } : {}), ...saved }
  return {
    model_type: (extended ? prefix : '') + config.architecture,
    ...(config.name === undefined ? {} : { _name_or_path: config.name }),
    num_hidden_layers: config.layers,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_attention_heads: config.queryHeads,
    num_key_value_heads: config.kvHeads,
    head_dim: keyDim,
    vocab_size: config.vocabSize,
    max_position_embeddings: Math.min(config.contextLength, shortened),
    ...writeWindows(config.architecture, config.layers, config),
    rms_norm_eps: config.rmsEpsilon,
    rope_theta: rope.theta,
    ...(ropeFits && partial !== 1 ? { partial_rotary_factor: partial } : {}),
    ...(ropeFits && scaling ? { rope_scaling: scaling } : {}),
    tie_word_embeddings: config.tiedEmbeddings,
    // One word stands for all four biases of attention: saveModel writes zeros where a model has only some.
    attention_bias: config.attentionBias || config.outputBias === true,
    ...(config.architecture === 'llama' ? { mlp_bias: config.mlpBias === true } : {}),
    ...(config.bosId === undefined ? {} : { bos_token_id: config.bosId }),
    ...(config.eosIds.length === 0 ? {} : { eos_token_id: config.eosIds }),
    hidden_act: activationName(config.activation),
    ...(Object.keys(rest).length > 0 ? { kvloom: { version, ...rest } } : {}),
  }
}

function ropeBlock(rope: ModelConfig['rope']): Settings {
  const { dim, frequencies, attentionFactor } = ropeOf(rope)
  return { dim, frequencies: [...frequencies], attention_factor: attentionFactor }
}
