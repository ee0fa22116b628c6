// A model some of whose weights may change: forward, losses, and gradients of those weights. What trains it lies outside.
import { OptionError } from '@kvloom/core'
import * as tf from '@tensorflow/tfjs-core'
import { Arena } from './arena'
import { useBackend } from './backend'
import { type HeadWish, headLoss, type TeacherStates } from './gradients/head'
import { type GradientsWanted, layerGradients } from './gradients/layer'
import { attentionForward, backThroughLayers, floats, forwardTraced, throughLayers } from './gradients/sequence'
import { disposeTables, sequenceTables } from './gradients/tables'
import { mlp } from './llama'
import type { Model } from './model'
import { PARTS, TrainedWeights, type WeightValues } from './trained-weights'
import type { LlamaWeights } from './weights'

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

/**
 * Opens a model for training.
 * @param model borrowed; stays loaded while this is in use
 * @param weights names of what is trained: parts of every layer (`attention.query`, `mlpNorm`; a bias goes with its matrix) and `finalNorm`; parts that the model lacks are passed over
 * @throws OptionError for other names
 */
export async function trainable(model: Model, weights: readonly string[]): Promise<TrainableModel> {
  const wrong = weights.find((name) => name !== 'finalNorm' && !PARTS.includes(name))
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

/** A model under training. It owns the weights that are trained. */
export class TrainableModel {
  private readonly held: TrainedWeights

  /** Made by `trainable()`. */
  constructor(private readonly model: Model) {
    this.held = new TrainedWeights(model.packed)
  }

  /** Prepares for gradients that go back through frozen weights; `trainable()` calls it. Memory: 8 bytes a number of these. */
  unpackFrozen(): void {
    this.held.unpackFrozen()
  }

  /** What the trained weights are now; not to be changed in place. */
  get values(): WeightValues {
    return this.held.values
  }

  /** Gives weights new values, which are kept and not to be changed afterwards; others stay as they are. */
  set(values: WeightValues): void {
    this.held.set(values)
  }

  private get weights(): LlamaWeights {
    return this.held.packed
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
      await throughLayers(this.parts, ids, arena, async ({ input, middle, output }) => {
        states.push({ input: await floats(input), output: await floats(target === 'attention' ? middle : output) })
        onLayer()
      })
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
    const arena = new Arena()
    try {
      const states = loss === 'teacher' && teacher ? await teacher.states(ids, arena, onLayer) : null
      const { traces, hidden } = await forwardTraced(this.parts, ids, arena, onLayer, { attended: true })
      const { outputTransposed } = this.held
      const finalNorm = this.held.values.has('finalNorm') && parts.includes('finalNorm')
      const head = headLoss(this.model.config, this.weights, hidden, ids, {
        gradientOf: loss,
        finalNorm,
        ...(outputTransposed ? { outputTransposed } : {}),
        ...(states ? { teacher: states } : {}),
      })
      const losses = await lossesOf(head)
      arena.free(hidden)
      const gradients = new Map<string, Float32Array>()
      if (head.finalNorm) {
        gradients.set('finalNorm', await floats(head.finalNorm))
        head.finalNorm.dispose()
      }
      if (head.hidden)
        await backThroughLayers(this.parts, traces, arena.own(head.hidden), arena, {
          wanted: (layer) => ({ weights: this.wanted(layer, parts), input: layer > 0, at: 'output' }),
          pick: ({ weights }) => weights,
          visit: async (layer, weights) => {
            for (const [name, numbers] of await onHost(layer, weights)) gradients.set(name, numbers)
            onLayer()
          },
        })
      return { ...losses, gradients }
    } finally {
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
    const hidden = await throughLayers(this.parts, ids, arena, onLayer)
    return { config: this.model.config, weights: this.weights, hidden }
  }

  /** Those of `parts` that are trained in a layer, and their biases. */
  private wanted(layer: number, parts: readonly string[]): ReadonlySet<string> {
    const named = parts.flatMap((part) => [part, `${part}.bias`])
    return new Set(named.filter((part) => this.held.values.has(`layers.${layer}.${part}`)))
  }

  /** Frees the trained weights. The model stays. */
  dispose(): void {
    this.held.dispose()
  }
}

/** What a distance is divided by at least, for gradients of layers that are right already. */
const SMALLEST_LENGTH = 1e-12

const nothing = (): void => {}

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
