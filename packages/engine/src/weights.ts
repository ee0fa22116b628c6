// The weights of a Llama-family model as the forward pass holds them: matrices packed, norms and biases as f32 tensors.
//
// q4_0, q4_1, q8_0, f16 and f32 (and q6_k, where rows are whole blocks) stay as they are in the file. bf16 becomes f16 where every
// value survives that exactly, else f32; q5_0, q5_1, q4_k and q5_k become f32. `held` of each weight says what was done.
import {
  type WeightFormat as HeldFormat,
  LARGEST_HALF,
  type PackedWeight,
  packWeight,
  weightFormats,
} from '@kvloom/kernels'
import { dispose, type Tensor, tensor1d } from '@tensorflow/tfjs-core'
import { dequantize } from './files/dequantize'
import type { ModelFiles, WeightTensor } from './models/model-files'
import { Fingerprint } from './shape'

/** A linear map `[n, in] -> [n, out]`. */
export interface Linear {
  /** `[out, in]` */
  readonly weight: PackedWeight
  /** `[out]`, or null. */
  readonly bias: Tensor | null
  /** `[in, out]`, the same numbers once more, where gradients go back through it often. */
  readonly transposed?: PackedWeight
}

/** Weights of one layer. */
export interface LayerWeights {
  readonly attentionNorm: Tensor
  readonly query: Linear
  readonly key: Linear
  readonly value: Linear
  /** `[keyDim]`, norms per head (Qwen3). */
  readonly queryNorm: Tensor | null
  readonly keyNorm: Tensor | null
  readonly output: Linear
  readonly mlpNorm: Tensor
  readonly gate: Linear
  readonly up: Linear
  readonly down: Linear
}

/** Weights of a model. */
export interface LlamaWeights {
  /** `[vocab, hidden]` */
  readonly embedding: PackedWeight
  readonly layers: readonly LayerWeights[]
  readonly finalNorm: Tensor
  /** `[vocab, hidden]`; the embedding itself where they are tied. */
  readonly output: PackedWeight
}

/** How one weight of the file is held in memory. */
export interface HeldWeight {
  readonly name: string
  /** Format in the file. */
  readonly file: string
  /** Format in memory; differs where the kernels do not compute on the file's format. */
  readonly held: string
  /** Bytes in memory. */
  readonly bytes: number
}

/** What loading reports after each weight. */
export interface LoadProgress {
  /** Bytes of the file read so far, of `totalBytes`. */
  readonly bytes: number
  readonly totalBytes: number
  /** The weight just read. */
  readonly weight: string
}

export interface LoadWeightsOptions {
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined
  /** Aborts between two weights; what was loaded is freed. */
  readonly signal?: AbortSignal | undefined
}

/** Loaded weights with what there is to say about them. */
export interface LoadedWeights {
  readonly weights: LlamaWeights
  readonly held: readonly HeldWeight[]
  /** Of the configuration and what of the weights tells them apart. */
  readonly digest: string
  dispose(): void
}

/** Reads and packs every weight on the current backend, one at a time. Throws `ModelFileError`, or the signal's reason. */
export async function loadWeights(files: ModelFiles, options: LoadWeightsOptions = {}): Promise<LoadedWeights> {
  const loader = new Loader(files, options)
  try {
    const weights = await loader.model()
    const digest = await loader.fingerprint.digest(files.config)
    return { weights, held: loader.held, digest, dispose: () => loader.dispose() }
  } catch (error) {
    loader.dispose()
    throw error
  }
}

class Loader {
  readonly held: HeldWeight[] = []
  readonly fingerprint = new Fingerprint()
  private readonly owned: (PackedWeight | Tensor)[] = []
  private readonly totalBytes: number
  private bytes = 0

  constructor(
    private readonly files: ModelFiles,
    private readonly options: LoadWeightsOptions,
  ) {
    this.totalBytes = [...files.weights.values()].reduce((sum, each) => sum + each.bytes, 0)
  }

  async model(): Promise<LlamaWeights> {
    const embedding = await this.matrix('embedding')
    const layers: LayerWeights[] = []
    for (let layer = 0; layer < this.files.config.layers; layer++) layers.push(await this.layer(`layers.${layer}`))
    const finalNorm = await this.vector('finalNorm')
    const output = this.files.config.tiedEmbeddings ? embedding : await this.matrix('output')
    return { embedding, layers, finalNorm, output }
  }

  private async layer(layer: string): Promise<LayerWeights> {
    return {
      attentionNorm: await this.vector(`${layer}.attentionNorm`),
      query: await this.linear(`${layer}.attention.query`),
      key: await this.linear(`${layer}.attention.key`),
      value: await this.linear(`${layer}.attention.value`),
      queryNorm: await this.optionalVector(`${layer}.attention.queryNorm`),
      keyNorm: await this.optionalVector(`${layer}.attention.keyNorm`),
      output: await this.linear(`${layer}.attention.output`),
      mlpNorm: await this.vector(`${layer}.mlpNorm`),
      gate: await this.linear(`${layer}.mlp.gate`),
      up: await this.linear(`${layer}.mlp.up`),
      down: await this.linear(`${layer}.mlp.down`),
    }
  }

  private async linear(name: string): Promise<Linear> {
    return { weight: await this.matrix(name), bias: await this.optionalVector(`${name}.bias`) }
  }

  private async matrix(name: string): Promise<PackedWeight> {
    const weight = await this.read(name)
    const [outFeatures = 0, inFeatures = 0] = weight.shape
    const packed = packWeight({ ...heldAs(weight, inFeatures), outFeatures, inFeatures })
    this.owned.push(packed)
    this.held.push({ name, file: weight.format, held: packed.format, bytes: packed.bytes })
    return packed
  }

  private async vector(name: string): Promise<Tensor> {
    const weight = await this.read(name)
    const vector = tensor1d(dequantize(weight.format, weight.data))
    this.owned.push(vector)
    this.held.push({ name, file: weight.format, held: 'f32', bytes: vector.size * 4 })
    return vector
  }

  private async optionalVector(name: string): Promise<Tensor | null> {
    return this.files.weights.has(name) ? this.vector(name) : null
  }

  private async read(name: string): Promise<WeightTensor> {
    this.options.signal?.throwIfAborted()
    const weight = await this.files.tensor(name)
    await this.fingerprint.add(name, weight.format, weight.shape, weight.data)
    this.bytes += weight.data.byteLength
    this.options.onProgress?.({ bytes: this.bytes, totalBytes: this.totalBytes, weight: name })
    return weight
  }

  dispose(): void {
    for (const each of this.owned.splice(0)) {
      if ('tensors' in each) each.dispose()
      else dispose(each)
    }
  }
}

/** The data of a matrix in a format that the kernels multiply with. */
function heldAs(
  { format, data }: WeightTensor,
  inFeatures: number,
): { format: HeldFormat; data: Uint8Array | Float32Array } {
  const kept = weightFormats.find((each) => each === format)
  if (kept && !(kept === 'q6_k' && inFeatures % 256 !== 0)) return { format: kept, data }
  const values = dequantize(format, data)
  if (format !== 'bf16' || !values.every(survivesHalf)) return { format: 'f32', data: values }
  return { format: 'f16', data: toHalves(values) }
}

/** A bf16 value has 8 significant bits, fewer than f16's 11: only its exponent can be out of range. */
function survivesHalf(value: number): boolean {
  return Math.abs(value) <= LARGEST_HALF && Number.isInteger(value * 2 ** 24)
}

/** f16 bits, little-endian, of values that are exact in f16. */
export function toHalves(values: Float32Array): Uint8Array {
  const halves = new Uint16Array(values.length)
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < halves.length; i++) {
    const word = words[i] ?? 0
    const exponent = ((word >>> 23) & 0xff) - 112
    const magnitude =
      exponent > 0 ? (exponent << 10) | ((word >>> 13) & 0x3ff) : Math.round(Math.abs(values[i] ?? 0) * 2 ** 24)
    halves[i] = ((word >>> 16) & 0x8000) | magnitude
  }
  return new Uint8Array(halves.buffer)
}
