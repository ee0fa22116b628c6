// The names tensors have inside kvloom, and what they are called in GGUF files and Hugging Face checkpoints.
//
//   embedding                             [vocab, hidden]
//   layers.N.attentionNorm                [hidden]
//   layers.N.attention.query              [queryHeads · keyDim, hidden]      .bias: layers.N.attention.query.bias
//   layers.N.attention.key                [kvHeads · keyDim, hidden]         layers.N.attention.key.bias
//   layers.N.attention.value              [kvHeads · valueDim, hidden]       layers.N.attention.value.bias
//   layers.N.attention.output             [hidden, queryHeads · valueDim]    layers.N.attention.output.bias
//   layers.N.attention.queryNorm          [keyDim]                           Qwen3
//   layers.N.attention.keyNorm            [keyDim]                           Qwen3
//   layers.N.mlpNorm                      [hidden]
//   layers.N.mlp.gate, layers.N.mlp.up    [intermediate, hidden]             .bias where the file has one
//   layers.N.mlp.down                     [hidden, intermediate]
//   finalNorm                             [hidden]
//   output                                [vocab, hidden]                    absent where embeddings are tied
import type { ModelConfig } from './config'

const whole: readonly (readonly [canonical: string, gguf: string, huggingFace: string])[] = [
  ['embedding', 'token_embd.weight', 'model.embed_tokens.weight'],
  ['finalNorm', 'output_norm.weight', 'model.norm.weight'],
  ['output', 'output.weight', 'lm_head.weight'],
]

const perLayer: readonly (readonly [canonical: string, gguf: string, huggingFace: string])[] = [
  ['attentionNorm', 'attn_norm.weight', 'input_layernorm.weight'],
  ['attention.query', 'attn_q.weight', 'self_attn.q_proj.weight'],
  ['attention.key', 'attn_k.weight', 'self_attn.k_proj.weight'],
  ['attention.value', 'attn_v.weight', 'self_attn.v_proj.weight'],
  ['attention.output', 'attn_output.weight', 'self_attn.o_proj.weight'],
  ['attention.query.bias', 'attn_q.bias', 'self_attn.q_proj.bias'],
  ['attention.key.bias', 'attn_k.bias', 'self_attn.k_proj.bias'],
  ['attention.value.bias', 'attn_v.bias', 'self_attn.v_proj.bias'],
  ['attention.output.bias', 'attn_output.bias', 'self_attn.o_proj.bias'],
  ['attention.queryNorm', 'attn_q_norm.weight', 'self_attn.q_norm.weight'],
  ['attention.keyNorm', 'attn_k_norm.weight', 'self_attn.k_norm.weight'],
  ['mlpNorm', 'ffn_norm.weight', 'post_attention_layernorm.weight'],
  ['mlp.gate', 'ffn_gate.weight', 'mlp.gate_proj.weight'],
  ['mlp.up', 'ffn_up.weight', 'mlp.up_proj.weight'],
  ['mlp.down', 'ffn_down.weight', 'mlp.down_proj.weight'],
  ['mlp.gate.bias', 'ffn_gate.bias', 'mlp.gate_proj.bias'],
  ['mlp.up.bias', 'ffn_up.bias', 'mlp.up_proj.bias'],
  ['mlp.down.bias', 'ffn_down.bias', 'mlp.down_proj.bias'],
]

/**
 * Canonical name to the name in the file, for a model of so many layers.
 * @param kind 'hugging-face-base' is a checkpoint without the class around the model: its names lack the `model.` in front
 */
export function tensorNames(kind: 'gguf' | 'hugging-face' | 'hugging-face-base', layers: number): Map<string, string> {
  const column = kind === 'gguf' ? 1 : 2
  const prefix = kind === 'gguf' ? 'blk' : 'model.layers'
  const inFile = (name: string) => (kind === 'hugging-face-base' ? name.replace(/^model\./, '') : name)
  const names = new Map(whole.map((row) => [row[0], inFile(row[column])]))
  for (let layer = 0; layer < layers; layer++) {
    for (const row of perLayer) names.set(`layers.${layer}.${row[0]}`, inFile(`${prefix}.${layer}.${row[column]}`))
  }
  return names
}

const partOfGguf = new Map(perLayer.map(([canonical, gguf]) => [gguf, canonical]))

/** The part of a layer that a tensor of a GGUF file is, without the number of its layer; undefined for others. */
export const canonicalPart = (inGguf: string): string | undefined => partOfGguf.get(inGguf.replace(/^blk\.\d+\./, ''))

/** Does a checkpoint of such names come without the class around the model, and so without `model.` in front? */
export const isBaseCheckpoint = (names: ReadonlySet<string>): boolean =>
  names.has('embed_tokens.weight') && !names.has('model.embed_tokens.weight')

/** The shape a tensor of this canonical name must have, outermost first. */
export function expectedShape(name: string, config: ModelConfig): readonly number[] | undefined {
  const {
    hiddenSize: hidden,
    intermediateSize: inner,
    vocabSize: vocab,
    keyDim,
    valueDim,
    queryHeads,
    kvHeads,
  } = config
  const shapes: Readonly<Record<string, readonly number[]>> = {
    embedding: [vocab, hidden],
    finalNorm: [hidden],
    output: [vocab, hidden],
    attentionNorm: [hidden],
    'attention.query': [queryHeads * keyDim, hidden],
    'attention.key': [kvHeads * keyDim, hidden],
    'attention.value': [kvHeads * valueDim, hidden],
    'attention.output': [hidden, queryHeads * valueDim],
    'attention.queryNorm': [keyDim],
    'attention.keyNorm': [keyDim],
    mlpNorm: [hidden],
    'mlp.gate': [inner, hidden],
    'mlp.up': [inner, hidden],
    'mlp.down': [hidden, inner],
  }
  const short = name.replace(/^layers\.\d+\./, '')
  const matrix = shapes[short.replace(/\.bias$/, '')]
  return short.endsWith('.bias') ? matrix?.slice(0, 1) : matrix
}
