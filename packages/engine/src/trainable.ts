// A model some of whose weights may change: forward, losses, and gradients of those weights. What trains it lies outside.
import { OptionError } from '@kvloom/core'
import { type PackedWeight, packWeight, unpackWeight } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { Arena } from './arena'
import { useBackend } from './backend'
import { type HeadWish, headLoss, type TeacherStates } from './gradients/head'
import { type GradientsWanted, layerGradients } from './gradients/layer'
import { attentionForward, floats, forwardTraced, layerForward, uploadTrace } from './gradients/sequence'
import { disposeTables, sequenceTables } from './gradients/tables'
import { embed, mlp } from './llama'
import type { Model } from './model'
import type { LayerWeights, Linear, LlamaWeights } from './weights'

/** Weights by canonical name (`layers.3.attention.query`, `finalNorm`), their numbers `[out, in]` row by row. */
export type WeightValues = ReadonlyMap<string, Float32Array>

/** Where the output of a layer is compared with the original model's: after attention was added, or behind the MLP. */
export type LayerTarget = 'attention' | 'layer'

/** What a layer of the original model was given and gave, `[n, hidden]` each. */
export interface LayerStates {
  readonly input: Float32Array
  readonly output: Float32Array
}

/** A loss of one sequence, in nats or in the unit of hidden states, and the gradients of its sum. */
export interface SequenceGradients {
  readonly loss: number
  readonly gradients: WeightValues
}

/** Losses of one sequence, summed over its n - 1 predictions, in nats. */
export interface SequenceLosses {
  readonly nextToken: number
  /** KL(teacher || model); null without a teacher. */
  readonly divergence: number | null
}

/** The parts of a layer that may be trained. */
const PARTS = [
  'attentionNorm',
  'attention.query',
  'attention.key',
  'attention.value',
  'attention.queryNorm',
  'attention.keyNorm',
  'attention.output',
  'mlpNorm',
  'mlp.gate',
  'mlp.up',
  'mlp.down',
] as const
type Part = (typeof PARTS)[number]

/**
 * Opens a model for training.
 * @param model borrowed; stays loaded while this is in use
 * @param weights names of what is trained: parts of every layer (`attention.query`, `mlpNorm`; a bias goes with its matrix) and `finalNorm`; parts that the model lacks are passed over
 * @throws OptionError for other names
 */
export async function trainable(model: Model, weights: readonly string[]): Promise<TrainableModel> {
  const wrong = weights.find((name) => name !== 'finalNorm' && !PARTS.some((part) => part === name))
  if (wrong !== undefined)
    throw new OptionError('trainable', 'weights', wrong, `of ${[...PARTS, 'finalNorm'].join(', ')}`)
  await useBackend(model.backend)
  const values = new Map<string, Float32Array>()
  for (const name of namesOf(model, weights)) {
    const tensor = await model.weights.get(name)
    values.set(name, (await floats(tensor)).slice())
    tensor.dispose()
  }
  const opened = new TrainableModel(model)
  if (weights.length > 0) opened.unpackFrozen()
  opened.set(values)
  return opened
}

/** Canonical names of the weights that are trained, those of the first layer first. */
function namesOf(model: Model, weights: readonly string[]): string[] {
  const has = new Set(model.weights.names())
  const layers = Array.from({ length: model.config.layers }, (_, layer) =>
    weights
      .filter((part) => part !== 'finalNorm')
      .flatMap((part) => [`layers.${layer}.${part}`, `layers.${layer}.${part}.bias`]),
  ).flat()
  return [...layers, ...weights.filter((part) => part === 'finalNorm')].filter((name) => has.has(name))
}

/**
 * A model under training. Trained weights are f32 and owned by it; frozen ones are the model's, packed as they are, and where gradients go back
 * through them they are held unpacked besides, in both directions, which multiplies faster.
 */
export class TrainableModel {
  private readonly own = new Map<string, { dispose(): void }>()
  private weights: LlamaWeights
  private trained: ReadonlyMap<string, Float32Array> = new Map()
  private outputTransposed: PackedWeight | null = null

  /** Made by `trainable()`. */
  constructor(private readonly model: Model) {
    this.weights = model.packed
  }

  /** Unpacks the matrices of the MLP and the output matrix; `trainable()` calls it. Memory: 8 bytes a number. */
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
    this.outputTransposed = transposed
  }

  /** What the trained weights are now; not to be changed in place. */
  get values(): WeightValues {
    return this.trained
  }

  /** Gives weights new values, which are copied; others stay as they are. */
  set(values: WeightValues): void {
    const layers = [...this.weights.layers]
    let { finalNorm } = this.weights
    for (const [name, numbers] of values) {
      const [, number, part] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? []
      const layer = layers[Number(number)]
      if (layer && part) layers[Number(number)] = this.withPart(layer, part as Part, name, numbers)
      else if (name === 'finalNorm') finalNorm = this.hold(name, tf.tensor1d(numbers))
    }
    this.weights = { ...this.weights, layers, finalNorm }
    this.trained = new Map([...this.trained, ...values])
  }

  private withPart(layer: LayerWeights, part: string, name: string, numbers: Float32Array): LayerWeights {
    const vector = (): tf.Tensor1D => this.hold(name, tf.tensor1d(numbers))
    const [matrix, isBias] = [part.replace(/\.bias$/, ''), part.endsWith('.bias')]
    const linear = (old: Linear): Linear => {
      if (isBias) return { ...old, bias: vector() }
      const { outFeatures, inFeatures } = old.weight
      const weight = this.hold(name, packWeight({ format: 'f32', data: numbers, outFeatures, inFeatures }))
      this.free(`${name}, transposed`)
      return { weight, bias: old.bias }
    }
    switch (matrix as Part) {
      case 'attentionNorm':
        return { ...layer, attentionNorm: vector() }
      case 'mlpNorm':
        return { ...layer, mlpNorm: vector() }
      case 'attention.queryNorm':
        return { ...layer, queryNorm: vector() }
      case 'attention.keyNorm':
        return { ...layer, keyNorm: vector() }
      case 'attention.query':
        return { ...layer, query: linear(layer.query) }
      case 'attention.key':
        return { ...layer, key: linear(layer.key) }
      case 'attention.value':
        return { ...layer, value: linear(layer.value) }
      case 'attention.output':
        return { ...layer, output: linear(layer.output) }
      case 'mlp.gate':
        return { ...layer, gate: linear(layer.gate) }
      case 'mlp.up':
        return { ...layer, up: linear(layer.up) }
      case 'mlp.down':
        return { ...layer, down: linear(layer.down) }
    }
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

  private get parts() {
    const { config, shape } = this.model
    return { config, shape, packed: this.weights }
  }

  /**
   * What every layer was given and gave, on one sequence.
   * @param target where a layer's output is taken
   * @param onLayer called after each layer; what it throws ends the pass
   */
  async layerStates(ids: Int32Array, target: LayerTarget, onLayer: () => void = nothing): Promise<LayerStates[]> {
    await useBackend(this.model.backend)
    const arena = new Arena()
    try {
      const states: LayerStates[] = []
      let hidden = arena.own(embed(this.weights, ids)) // [n, hidden]
      for (const layer of this.weights.layers) {
        const { middle, attended, output } = await layerForward(this.parts, layer, hidden)
        for (const each of [middle, attended, output]) arena.own(each)
        states.push({ input: await floats(hidden), output: await floats(target === 'attention' ? middle : output) })
        arena.free(hidden, middle, attended)
        hidden = output
        onLayer()
      }
      return states
    } finally {
      arena.dispose()
    }
  }

  /**
   * The loss of one layer by itself, Σ over tokens of ||output - wanted output||₂, and its gradients.
   * @param states of the original model: `input` goes through this model's layer, `output` is what is wanted
   * @param parts of the layer whose gradients are wanted, of those that are trained
   */
  async layerGradients(
    number: number,
    states: LayerStates,
    target: LayerTarget,
    parts: readonly string[],
  ): Promise<SequenceGradients> {
    const { config, shape } = this.model
    const layer = this.weights.layers[number]
    if (!layer) throw new OptionError('layerGradients', 'layer', number, `a number from 0 to ${config.layers - 1}`)
    await useBackend(this.model.backend)
    const n = states.input.length / config.hiddenSize
    const arena = new Arena()
    const tables = sequenceTables(shape, n)
    try {
      const input = arena.own(tf.tensor2d(states.input, [n, config.hiddenSize]))
      const { middle, attended } = await attentionForward(this.parts, layer, input)
      arena.own(middle)
      arena.own(attended)
      const output = target === 'attention' ? middle : arena.own(mlp(config, layer, middle))
      const found = tf.tidy(() => {
        const apart = tf.sub(output, tf.tensor2d(states.output, [n, config.hiddenSize])) // [n, hidden]
        const lengths = tf.sqrt(tf.sum(tf.square(apart), 1, true)) // [n, 1]
        const gradient = tf.div(apart, tf.maximum(lengths, SMALLEST_LENGTH))
        const wanted: GradientsWanted = {
          weights: this.wanted(number, parts),
          input: false,
          at: target === 'attention' ? 'middle' : 'output',
        }
        const { weights } = layerGradients(config, shape, layer, tables, { input, middle, attended }, gradient, wanted)
        return { weights, loss: tf.sum(lengths) }
      })
      for (const each of [found.loss, ...Object.values(found.weights)]) arena.own(each)
      return { loss: (await floats(found.loss))[0] ?? 0, gradients: await onHost(number, found.weights) }
    } finally {
      disposeTables(tables)
      arena.dispose()
    }
  }

  /**
   * Losses of one sequence through the whole model, and the gradients of one of them.
   * @param loss which gradients are wanted: of the next token's loss, or of KL(teacher || model)
   * @param parts whose gradients are wanted, of those that are trained
   * @param onLayer called after each layer forward and each layer back; what it throws ends the pass
   */
  async sequenceGradients(
    ids: Int32Array,
    loss: 'next-token' | 'teacher',
    teacher: TrainableModel | null,
    parts: readonly string[],
    onLayer: () => void = nothing,
  ): Promise<SequenceLosses & { readonly gradients: WeightValues }> {
    const { config, shape } = this.model
    const arena = new Arena()
    const tables = sequenceTables(shape, ids.length)
    try {
      const states = loss === 'teacher' && teacher ? await teacher.states(ids, arena, onLayer) : null
      const { traces, hidden } = await forwardTraced(this.parts, ids, arena, onLayer, { attended: true })
      const finalNorm = this.trained.has('finalNorm') && parts.includes('finalNorm')
      const head = headLoss(config, this.weights, hidden, ids, {
        gradientOf: loss,
        finalNorm,
        ...(this.outputTransposed ? { outputTransposed: this.outputTransposed } : {}),
        ...(states ? { teacher: states } : {}),
      })
      const losses = await lossesOf(head)
      arena.free(hidden)
      const gradients = new Map<string, Float32Array>()
      if (head.finalNorm) {
        gradients.set('finalNorm', await floats(head.finalNorm))
        head.finalNorm.dispose()
      }
      let gradient = head.hidden && arena.own(head.hidden) // [n, hidden]
      for (const [number, layer] of [...this.weights.layers.entries()].reverse()) {
        const trace = traces.pop()
        if (!trace || !gradient) break
        const given: tf.Tensor = gradient
        const wanted: GradientsWanted = { weights: this.wanted(number, parts), input: number > 0, at: 'output' }
        const back = tf.tidy(() => {
          const at = uploadTrace(this.model, ids.length, trace)
          const { input, weights } = layerGradients(config, shape, layer, tables, at, given, wanted)
          return { weights, ...(input ? { input } : {}) }
        })
        for (const each of Object.values(back.weights)) arena.own(each)
        if (back.input) arena.own(back.input)
        for (const [name, numbers] of await onHost(number, back.weights)) gradients.set(name, numbers)
        arena.free(gradient, back.weights)
        gradient = back.input ?? null
        onLayer()
      }
      return { ...losses, gradients }
    } finally {
      disposeTables(tables)
      arena.dispose()
    }
  }

  /** Losses of one sequence, nothing else. */
  async losses(
    ids: Int32Array,
    teacher: TrainableModel | null = null,
    onLayer: () => void = nothing,
  ): Promise<SequenceLosses> {
    const arena = new Arena()
    try {
      const states = teacher ? await teacher.states(ids, arena, onLayer) : null
      const { hidden } = await this.states(ids, arena, onLayer)
      const wish: HeadWish = { gradientOf: null, ...(states ? { teacher: states } : {}) }
      return await lossesOf(headLoss(this.model.config, this.weights, hidden, ids, wish))
    } finally {
      arena.dispose()
    }
  }

  /** The last layer's output, owned by `arena`. */
  private async states(ids: Int32Array, arena: Arena, onLayer: () => void): Promise<TeacherStates> {
    await useBackend(this.model.backend)
    let hidden = arena.own(embed(this.weights, ids)) // [n, hidden]
    for (const layer of this.weights.layers) {
      const { middle, attended, output } = await layerForward(this.parts, layer, hidden)
      tf.dispose([middle, attended])
      arena.own(output)
      arena.free(hidden)
      hidden = output
      onLayer()
    }
    return { config: this.model.config, weights: this.weights, hidden }
  }

  /** Those of `parts` that are trained in a layer, and their biases. */
  private wanted(layer: number, parts: readonly string[]): ReadonlySet<string> {
    const named = parts.flatMap((part) => [part, `${part}.bias`])
    return new Set(named.filter((part) => this.trained.has(`layers.${layer}.${part}`)))
  }

  /** Frees the trained weights. The model stays. */
  dispose(): void {
    for (const each of this.own.values()) each.dispose()
    this.own.clear()
  }
}

/** What a distance is divided by at least, for gradients of layers that are right already. */
const SMALLEST_LENGTH = 1e-12

const nothing = (): void => {}

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

async function lossesOf(head: {
  readonly nextToken: tf.Tensor
  readonly divergence: tf.Tensor | null
}): Promise<SequenceLosses> {
  const { nextToken, divergence } = head
  const losses = {
    nextToken: (await floats(nextToken))[0] ?? 0,
    divergence: divergence ? ((await floats(divergence))[0] ?? 0) : null,
  }
  tf.dispose([nextToken, ...(divergence ? [divergence] : [])])
  return losses
}

/** Gradients of a layer by canonical name. */
async function onHost(layer: number, weights: Readonly<Record<string, tf.Tensor>>): Promise<Map<string, Float32Array>> {
  const found = new Map<string, Float32Array>()
  for (const [part, gradient] of Object.entries(weights)) found.set(`layers.${layer}.${part}`, await floats(gradient))
  return found
}
