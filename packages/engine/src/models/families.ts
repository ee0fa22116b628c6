// The families that the forward pass knows, and what their files must and may hold: a weight that is missing, and one that no
// weight of the family's forward pass is, are errors. The rules are those of the classes in huggingface/transformers 4.56
// (modeling_llama.py, modeling_mistral.py, modeling_qwen2.py, modeling_qwen3.py) and of llama.cpp (src/models/llama.cpp, qwen2.cpp, qwen3.cpp).
import { ModelFileError, UnsupportedArchitectureError } from '../errors'
import { type Architecture, type BiasFlags, type ModelConfig, supportedArchitectures } from './config'

/** Families of GGUF files; Mistral's say `llama`. */
export const ggufArchitectures = ['llama', 'qwen2', 'qwen3'] as const satisfies readonly Architecture[]

/** The architecture, or `UnsupportedArchitectureError` naming the supported ones. */
export function checkArchitecture(
  name: string,
  allowed: readonly Architecture[] = supportedArchitectures,
): Architecture {
  const found = allowed.find((each) => each === name)
  if (!found)
    throw new UnsupportedArchitectureError(
      name,
      supportedArchitectures.some((each) => each === name) ? allowed : supportedArchitectures,
    )
  return found
}

/** Refuses a mixture of experts: it says the name of a family of which only dense models are computed. @throws UnsupportedArchitectureError */
export function refuseExperts(architecture: Architecture, count: unknown): void {
  if (typeof count === 'number' && count > 0)
    throw new UnsupportedArchitectureError(`${architecture}, a mixture of ${count} experts`, supportedArchitectures)
}

/** Whether a family has a group of biases: always, never, or as the model says. */
type Presence = 'always' | 'never' | 'optional'

interface FamilyRules {
  readonly attentionBias: Presence
  readonly outputBias: Presence
  readonly mlpBias: Presence
  /** Queries and keys are RMS-normed per head before RoPE. */
  readonly qkNorm: boolean
  /** What huggingface/transformers takes for `num_key_value_heads` where config.json has no such key; undefined: as query heads. */
  readonly kvHeads?: number
  /** What it takes for `head_dim`; undefined: hidden size / query heads. */
  readonly headDim?: number
}

const rules: Readonly<Record<Architecture, FamilyRules>> = {
  llama: { attentionBias: 'optional', outputBias: 'optional', mlpBias: 'optional', qkNorm: false },
  mistral: { attentionBias: 'never', outputBias: 'never', mlpBias: 'never', qkNorm: false, kvHeads: 8 },
  qwen2: { attentionBias: 'always', outputBias: 'never', mlpBias: 'never', qkNorm: false, kvHeads: 32 },
  qwen3: {
    attentionBias: 'optional',
    outputBias: 'optional',
    mlpBias: 'never',
    qkNorm: true,
    kvHeads: 32,
    headDim: 128,
  },
}

/** The rules of a family. */
export const familyRules = (architecture: Architecture): FamilyRules => rules[architecture]

/** The groups of biases of a model; `says` tells what the file says of an optional group. */
export function biasesOf(architecture: Architecture, says: (group: keyof BiasFlags) => boolean): BiasFlags {
  const has = (group: keyof BiasFlags): boolean =>
    rules[architecture][group] === 'always' || (rules[architecture][group] === 'optional' && says(group))
  return {
    attentionBias: has('attentionBias'),
    ...(has('outputBias') ? { outputBias: true } : {}),
    ...(has('mlpBias') ? { mlpBias: true } : {}),
  }
}

/** The biases of each group, as parts of a layer. */
export const biasGroups: Readonly<Record<keyof BiasFlags, readonly string[]>> = {
  attentionBias: ['attention.query.bias', 'attention.key.bias', 'attention.value.bias'],
  outputBias: ['attention.output.bias'],
  mlpBias: ['mlp.gate.bias', 'mlp.up.bias', 'mlp.down.bias'],
}

const everyLayer = [
  'attentionNorm',
  'attention.query',
  'attention.key',
  'attention.value',
  'attention.output',
  'mlpNorm',
  'mlp.gate',
  'mlp.up',
  'mlp.down',
]

/** Every weight of a model, by canonical name. */
export function weightNames(config: ModelConfig): string[] {
  const parts = [...everyLayer]
  if (config.qkNorm) parts.push('attention.queryNorm', 'attention.keyNorm')
  if (config.attentionBias) parts.push(...biasGroups.attentionBias)
  if (config.outputBias) parts.push(...biasGroups.outputBias)
  if (config.mlpBias) parts.push(...biasGroups.mlpBias)
  const layers = Array.from({ length: config.layers }, (_, layer) => parts.map((part) => `layers.${layer}.${part}`))
  return ['embedding', 'finalNorm', ...(config.tiedEmbeddings ? [] : ['output']), ...layers.flat()]
}

/** Fewest tensors of a layer: a file of fewer cannot have so many layers, and need not be searched for them. */
export function checkLayerCount(file: string, key: string, layers: number, tensors: number): void {
  if (layers * everyLayer.length <= tensors) return
  throw new ModelFileError('TENSOR_MISSING', {
    given: `${file}, ${key} = ${layers} in a file of ${tensors} tensors`,
    allowed: `at least ${everyLayer.length} tensors for each layer`,
    cure: 'The file is incomplete, or its configuration is of another model; fetch it again.',
  })
}

/** What files hold besides weights: angles that the configuration gives too. */
const derived = /(^|\.)rotary_emb\.inv_freq$|^blk\.\d+\.attn_rot_embd\./

/**
 * Refuses a file with a tensor that the forward pass would pass over: it belongs to another model.
 * @param inFile names of the file
 * @param used names of the file that are weights of this model
 * @param beside further names that are in order
 */
export function checkNoOthers(
  file: string,
  config: ModelConfig,
  inFile: Iterable<string>,
  used: ReadonlySet<string>,
  beside: readonly string[],
): void {
  for (const name of inFile) {
    if (used.has(name) || beside.includes(name) || derived.test(name)) continue
    throw new ModelFileError('TENSOR_UNEXPECTED', {
      given: `${file} with a tensor "${name}"`,
      allowed: `the weights of a ${config.architecture} model of ${config.layers} layers, ${biasWords(config)}`,
      cure: 'The file holds a model that its configuration does not describe, or of an architecture that this engine does not compute; use another file.',
    })
  }
}

function biasWords(config: ModelConfig): string {
  const on = [
    ...(config.attentionBias ? ['queries, keys and values'] : []),
    ...(config.outputBias ? ['the output of attention'] : []),
    ...(config.mlpBias ? ['the MLP'] : []),
  ]
  return on.length > 0 ? `with biases on ${on.join(' and ')}` : 'without biases'
}
