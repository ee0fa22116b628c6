// The weights of a model of which some change: how the forward pass holds them.
import { type PackedWeight, packWeight, unpackWeight } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { LayerWeights, Linear, LlamaWeights } from './weights'

/** Weights by canonical name (`layers.3.attention.query`, `finalNorm`), their numbers `[out, in]` row by row. */
export type WeightValues = ReadonlyMap<string, Float32Array>

/** Where the forward pass has the parts of a layer that may be trained. */
const FIELDS = {
  attentionNorm: 'attentionNorm',
  'attention.query': 'query',
  'attention.key': 'key',
  'attention.value': 'value',
  'attention.queryNorm': 'queryNorm',
  'attention.keyNorm': 'keyNorm',
  'attention.output': 'output',
  mlpNorm: 'mlpNorm',
  'mlp.gate': 'gate',
  'mlp.up': 'up',
  'mlp.down': 'down',
} as const satisfies Readonly<Record<string, keyof LayerWeights>>
/** Their names. */
export const PARTS: readonly string[] = Object.keys(FIELDS)

/**
 * Weights under training. Trained ones are f32 and owned by this; frozen ones are the model's, packed as they are, and where gradients go back
 * through them they are held unpacked besides, in both directions, which multiplies faster.
 */
export class TrainedWeights {
  private readonly own = new Map<string, { dispose(): void }>()
  private trained: WeightValues = new Map()
  private transposed: PackedWeight | null = null

  /** @param weights of the model; borrowed */
  constructor(private weights: LlamaWeights) {}

  /** As the forward pass takes them. */
  get packed(): LlamaWeights {
    return this.weights
  }

  /** The output matrix transposed, `[hidden, vocab]`, where it is held. */
  get outputTransposed(): PackedWeight | null {
    return this.transposed
  }

  /** What the trained weights are now. */
  get values(): WeightValues {
    return this.trained
  }

  /** Unpacks the matrices of the MLP and the output matrix. Memory: 8 bytes a number. */
  unpackFrozen(): void {
    const unpack = (name: string, weight: PackedWeight): UnpackedWeight => ({
      weight: this.hold(name, repacked(weight, false)),
      transposed: this.hold(`${name}, transposed`, repacked(weight, true)),
    })
    const layers = this.weights.layers.map((layer, number) => {
      const linear = (part: 'gate' | 'up' | 'down'): Linear => ({
        ...layer[part],
        ...unpack(`layers.${number}.mlp.${part}`, layer[part].weight),
      })
      return { ...layer, gate: linear('gate'), up: linear('up'), down: linear('down') }
    })
    const { weight, transposed } = unpack('output', this.weights.output)
    this.weights = { ...this.weights, layers, output: weight }
    this.transposed = transposed
  }

  /** Gives weights new values, which are kept and not to be changed afterwards; others stay as they are. */
  set(values: WeightValues): void {
    const layers = [...this.weights.layers]
    let { finalNorm } = this.weights
    for (const [name, numbers] of values) {
      const [, number, part] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? []
      const layer = layers[Number(number)]
      if (layer && part) layers[Number(number)] = this.withPart(layer, part, name, numbers)
      else if (name === 'finalNorm') finalNorm = this.hold(name, tf.tensor1d(numbers))
    }
    this.weights = { ...this.weights, layers, finalNorm }
    this.trained = new Map([...this.trained, ...values])
  }

  private withPart(layer: LayerWeights, part: string, name: string, numbers: Float32Array): LayerWeights {
    const field = FIELDS[part.replace(/\.bias$/, '') as keyof typeof FIELDS]
    const old = layer[field]
    const isLinear = old !== null && 'weight' in old
    return {
      ...layer,
      [field]: isLinear ? this.linear(old, part, name, numbers) : this.hold(name, tf.tensor1d(numbers)),
    }
  }

  private linear(old: Linear, part: string, name: string, numbers: Float32Array): Linear {
    if (part.endsWith('.bias')) return { ...old, bias: this.hold(name, tf.tensor1d(numbers)) }
    const { outFeatures, inFeatures } = old.weight
    const weight = this.hold(name, packWeight({ format: 'f32', data: numbers, outFeatures, inFeatures }))
    this.free(`${name}, transposed`)
    return { weight, bias: old.bias }
  }

  /** Keeps what stands for a weight, and frees what stood for it before. */
  private hold<T extends { dispose(): void }>(name: string, tensor: T): T {
    this.free(name)
    this.own.set(name, tensor)
    return tensor
  }

  private free(name: string): void {
    this.own.get(name)?.dispose()
    this.own.delete(name)
  }

  /** Frees what is owned; the model's weights stay. */
  dispose(): void {
    for (const each of this.own.values()) each.dispose()
    this.own.clear()
  }
}

interface UnpackedWeight {
  readonly weight: PackedWeight
  readonly transposed: PackedWeight
}

/** A matrix as f32, or its transpose. */
function repacked(packed: PackedWeight, transposes: boolean): PackedWeight {
  const matrix = tf.tidy(() => {
    const whole = unpackWeight(packed) as tf.Tensor2D // [out, in]
    return transposes ? tf.transpose(whole) : whole
  })
  const [outFeatures = 0, inFeatures = 0] = matrix.shape
  const data = matrix.dataSync() as Float32Array
  matrix.dispose()
  return packWeight({ format: 'f32', data, outFeatures, inFeatures })
}
