// Help for tests: small Llamas with random weights, written as a Hugging Face folder.
import { mkdtemp, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { encodeSafetensors, type TensorToWrite } from '../files/safetensors-write'
import type { ModelConfig } from '../models/config'
import { configFromHuggingFace } from '../models/config-from-hugging-face'
import { weightNames } from '../models/families'
import { expectedShape, tensorNames } from '../models/tensor-names'
import { uniformRandom } from '../random'

/** A random model: its folder, configuration, and weights by canonical name, `[out, in]` row by row. */
export interface RandomLlama {
  readonly folder: string
  readonly config: ModelConfig
  readonly weights: ReadonlyMap<string, Float32Array>
}

/** Settings of config.json beside those every random model has. */
export type RandomLlamaSettings = Readonly<Record<string, unknown>> & {
  readonly model_type: 'llama' | 'qwen2' | 'qwen3' | 'mistral'
}

const common = {
  hidden_size: 48,
  intermediate_size: 88,
  num_hidden_layers: 3,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  vocab_size: 131,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  tie_word_embeddings: true,
  eos_token_id: 2,
}

/** A text of `n` ids for random models, another one for every seed. */
export const text = (n: number, seed: number): Int32Array =>
  Int32Array.from({ length: n }, (_, i) => (i * 37 + seed * 11) % common.vocab_size)

/** Writes config.json and model.safetensors to a new temporary folder, which is the caller's to delete. */
export async function writeRandomLlama(
  settings: RandomLlamaSettings,
  dtype: 'F32' | 'BF16' = 'F32',
  seed = 1,
): Promise<RandomLlama> {
  const file = { ...common, ...settings }
  const inFile = tensorNames('hugging-face', file.num_hidden_layers)
  const config = configFromHuggingFace('config.json', file)
  const needed = new Set(weightNames(config))
  const wanted = [...inFile.keys()].filter((name) => needed.has(name))
  const random = uniformRandom(seed)
  const weights = new Map<string, Float32Array>()
  const tensors: Record<string, TensorToWrite> = {}
  for (const name of wanted) {
    const shape = expectedShape(name, config) ?? []
    const spread = shape.length === 2 ? Math.sqrt(3 / (shape[1] ?? 1)) : 0.3
    const base = name.endsWith('Norm') ? 1 : 0
    const size = shape.reduce((a, b) => a * b, 1)
    const values = Float32Array.from({ length: size }, () => base + spread * (2 * random() - 1))
    const data = dtype === 'F32' ? values : truncateToBf16(values)
    weights.set(name, values)
    tensors[inFile.get(name) ?? ''] = { dtype, shape, data }
  }
  const folder = await mkdtemp(path.join(os.tmpdir(), 'kvloom-random-llama-'))
  await writeFile(path.join(folder, 'config.json'), JSON.stringify(file))
  await writeFile(path.join(folder, 'model.safetensors'), encodeSafetensors(tensors))
  return { folder, config, weights }
}

/** Cuts the values to bf16, in place too. */
function truncateToBf16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer)
  const halves = Uint16Array.from(words, (word) => word >>> 16)
  halves.forEach((half, i) => {
    words[i] = half << 16
  })
  return halves
}
