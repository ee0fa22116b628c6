// The configuration of a model from a Hugging Face config.json.
import { ModelFileError } from '../errors'
import { readActivation } from './activations'
import { type Architecture, type BiasFlags, checkConfig, type ModelConfig } from './config'
import { endIdsOfHuggingFace } from './end-ids'
import { biasesOf, checkArchitecture, familyRules, refuseExperts } from './families'
import { readRopeScaling } from './hugging-face-rope'
import { readExtras } from './kvloom-config'
import { type SettingsReader, settingsReader } from './settings-reader'
import { readWindows } from './windows'

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
  const scaling = read.object(read.present('rope_parameters') ? 'rope_parameters' : 'rope_scaling')
  const inBlock = settingsReader(`${file}, rope_parameters`, (key) => scaling?.[key])
  const theta = inBlock.optionalNumber('rope_theta') ?? read.number('rope_theta', 10_000)
  const partial = inBlock.optionalNumber('partial_rotary_factor') ?? read.number('partial_rotary_factor', 1)
  const bos = read.id('bos_token_id')
  return checkConfig(file, {
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
