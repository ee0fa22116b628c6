/** Writes a small Llama model of random weights with a byte tokenizer: the command line needs no download to be tested. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TensorToWrite, writeSafetensors } from '@kvloom/engine'

const SIZES = { hidden: 64, intermediate: 96, queryHeads: 4, kvHeads: 2, dim: 32, vocabulary: 258 }

/** Makes a model folder. @param layers more layers make it slower. */
export async function writeRandomModel(folder: string, layers = 2): Promise<void> {
  const { hidden, intermediate, queryHeads, kvHeads, dim, vocabulary } = SIZES
  const random = numbers(7)
  const matrix = (out: number, inner: number): TensorToWrite => ({
    shape: [out, inner],
    data: Float32Array.from({ length: out * inner }, () => (random() - 0.5) * (3.5 / Math.sqrt(inner))),
  })
  const ones = (): TensorToWrite => ({ shape: [hidden], data: new Float32Array(hidden).fill(1) })
  const tensors: Record<string, TensorToWrite> = {
    'model.embed_tokens.weight': matrix(vocabulary, hidden),
    'model.norm.weight': ones(),
  }
  for (let layer = 0; layer < layers; layer++) {
    const prefix = `model.layers.${layer}`
    Object.assign(tensors, {
      [`${prefix}.input_layernorm.weight`]: ones(),
      [`${prefix}.post_attention_layernorm.weight`]: ones(),
      [`${prefix}.self_attn.q_proj.weight`]: matrix(queryHeads * dim, hidden),
      [`${prefix}.self_attn.k_proj.weight`]: matrix(kvHeads * dim, hidden),
      [`${prefix}.self_attn.v_proj.weight`]: matrix(kvHeads * dim, hidden),
      [`${prefix}.self_attn.o_proj.weight`]: matrix(hidden, queryHeads * dim),
      [`${prefix}.mlp.gate_proj.weight`]: matrix(intermediate, hidden),
      [`${prefix}.mlp.up_proj.weight`]: matrix(intermediate, hidden),
      [`${prefix}.mlp.down_proj.weight`]: matrix(hidden, intermediate),
    })
  }
  await mkdir(folder, { recursive: true })
  await writeSafetensors(join(folder, 'model.safetensors'), tensors)
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_hidden_layers: layers,
    num_attention_heads: queryHeads,
    num_key_value_heads: kvHeads,
    head_dim: dim,
    vocab_size: vocabulary,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: true,
    bos_token_id: 256,
    eos_token_id: 257,
  }
  await writeFile(join(folder, 'config.json'), JSON.stringify(config))
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(byteTokenizer()))
  await writeFile(
    join(folder, 'tokenizer_config.json'),
    JSON.stringify({ bos_token: '<|bos|>', eos_token: '<|eos|>', add_bos_token: false }),
  )
}

/** One token a byte, without merges. */
function byteTokenizer() {
  const level = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
  const special = (content: string, id: number) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [special('<|bos|>', 256), special('<|eos|>', 257)],
    normalizer: null,
    pre_tokenizer: level,
    post_processor: null,
    decoder: level,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: byteVocabulary(),
      merges: [],
    },
  }
}

/** GPT-2's printable characters for bytes. */
function byteVocabulary(): Record<string, number> {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255)
  let next = 256
  return Object.fromEntries(
    Array.from({ length: 256 }, (_, byte) => [String.fromCodePoint(printable(byte) ? byte : next++), byte]),
  )
}

/** A small linear congruential generator: the same weights every time. */
function numbers(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
