// The configuration of a model from the metadata of a GGUF file.
import { ModelFileError } from '../errors'
import type { GgufFile, GgufValue } from '../files/gguf'
import { type Architecture, type BiasFlags, checkConfig, type ModelConfig } from './config'
import { endIdsOfGguf } from './end-ids'
import { biasesOf, biasGroups, checkArchitecture, familyRules, ggufArchitectures, refuseExperts } from './families'
import { readGgufRope } from './gguf-rope'
import { settingsReader } from './settings-reader'
import { canonicalPart } from './tensor-names'

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
  return checkConfig(file, {
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
