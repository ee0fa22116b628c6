// Stages that change a model before it runs (kind 'model'): the weights they give are loaded like those of any other model.
import { actsOn, ModelMismatch, type ModelShape, type ModelWeights, type Ready, siteOf } from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import { type LoadModelOptions, loadModelFiles, type Model } from './model'
import type { ModelConfig } from './models/config'
import type { ModelFiles, WeightInfo } from './models/model-files'
import { expectedShape } from './models/tensor-names'

/**
 * The model that a compressor runs on: every 'model' stage is bound, and those with `transform` change the weights, in order.
 * Weights that no stage touched stay packed as in the file.
 * @returns `model` itself where no stage transforms it; else (with the stages' ids in `shape.transformedBy`) a new model, the caller's to dispose, which does not need the first one
 * @throws ModelMismatch when a stage does not fit the model, was applied to it before, or gives weights that do not fit its own shape; what `loadModel` throws
 */
export async function applyModelStages(
  model: Model,
  ready: Ready,
  options: Pick<LoadModelOptions, 'onProgress' | 'signal'> = {},
): Promise<Model> {
  const own = watched(model.weights)
  const { weights, names } = changedWeights(model.shape, own.weights, ready)
  if (names.length === 0) return model
  const files = changedFiles(model.files, weights, own, names)
  return loadModelFiles(files, { ...options, backend: model.backend }, () => weights.shape.fingerprint)
}

/**
 * The shape that `applyModelStages` would give, before any weight is made: enough to open a cache and see whether it fits.
 * @throws ModelMismatch as `applyModelStages`, except for weights that do not fit their own shape
 */
export function shapeBehindModelStages({ shape, weights }: Pick<Model, 'shape' | 'weights'>, ready: Ready): ModelShape {
  const changed = changedWeights(shape, weights, ready)
  if (changed.names.length === 0) return shape
  return { ...changed.weights.shape, transformedBy: [...(shape.transformedBy ?? []), ...changed.names] }
}

/** Weights behind every stage, each made when it is asked for, and the ids of the stages that changed them. */
function changedWeights(
  shape: ModelShape,
  original: ModelWeights,
  ready: Ready,
): { readonly weights: ModelWeights; readonly names: readonly string[] } {
  let weights = original
  const names: string[] = []
  for (const stage of ready.compressor.stages) {
    if (stage.kind !== 'model') continue
    const artifact = ready.artifacts.find((each) => each.stage === stage.id)
    const bound = stage.bind(siteOf(weights.shape, 0, 'keys'), artifact)
    if (!bound.transform) continue
    if (shape.transformedBy?.includes(stage.id))
      throw new ModelMismatch(
        stage.id,
        `the weights of ${shape.name} went through it already.`,
        'Leave it out, or begin with the original model.',
      )
    const everywhere = Array.from({ length: weights.shape.layers }, (_, layer) => actsOn(stage, layer))
    if (everywhere.includes(false))
      throw new ModelMismatch(
        stage.id,
        'it makes new weights of every layer, and some layers are left out.',
        'Use it without onLayers() and protectLayers().',
      )
    const before: string = weights.shape.fingerprint
    weights = bound.transform(weights)
    if (weights.shape.fingerprint === before)
      throw new ModelMismatch(
        stage.id,
        `its new weights have the fingerprint of the old ones (${before}).`,
        'Give the new shape a fingerprint of its own.',
      )
    names.push(stage.id)
  }
  return { weights, names }
}

/** The model's own weights, remembering which tensors they handed out: what comes back as it was need not be packed anew. */
function watched(weights: ModelWeights): Watched {
  const handed = new WeakMap<Tensor, string>()
  return {
    weights: {
      shape: weights.shape,
      names: () => weights.names(),
      async get(name) {
        const tensor = await weights.get(name)
        handed.set(tensor, name)
        return tensor
      },
    },
    isUntouched: (tensor, name) => handed.get(tensor) === name,
  }
}

interface Watched {
  readonly weights: ModelWeights
  /** Is this the tensor that was handed out under this name? */
  isUntouched(tensor: Tensor, name: string): boolean
}

/** The files of a model with other weights. @throws ModelMismatch */
function changedFiles(base: ModelFiles, changed: ModelWeights, own: Watched, stages: readonly string[]): ModelFiles {
  const stage = stages.join(' + ')
  const config = {
    ...changedConfig(base.config, own.weights.shape, changed.shape, stage),
    transformedBy: [...(base.config.transformedBy ?? []), ...stages],
  }
  const weights = new Map<string, WeightInfo>()
  for (const name of changed.names()) {
    const shape = expectedShape(name, config) ?? unknownName(stage, name)
    weights.set(name, { name, format: 'f32', shape, bytes: 4 * shape.reduce((product, size) => product * size, 1) })
  }
  return {
    kind: base.kind,
    config,
    metadata: base.metadata,
    weights,
    warnings: base.warnings,
    async tensor(name) {
      const expected = weights.get(name)?.shape ?? noWeight(stage, name)
      const tensor = await changed.get(name)
      try {
        checkShape(stage, name, tensor, expected)
        if (own.isUntouched(tensor, name)) return await base.tensor(name)
        const values = await tensor.data()
        return { format: 'f32', shape: tensor.shape, data: new Uint8Array(values.slice().buffer) }
      } finally {
        tensor.dispose()
      }
    },
    tokenizer: () => base.tokenizer(),
  }
}

/** The configuration of the changed model: sizes, rotation and scale from its shape, everything else as it was. */
function changedConfig(base: ModelConfig, before: ModelShape, after: ModelShape, stage: string): ModelConfig {
  const refuse = (reason: string, cure: string): never => {
    throw new ModelMismatch(stage, reason, cure)
  }
  const { layers, queryHeads, kvHeads, keyDim, valueDim, rope, attentionScale } = after
  if (queryHeads % kvHeads !== 0)
    refuse(`it leaves ${queryHeads} query heads on ${kvHeads} KV heads.`, 'Query heads must be a multiple of KV heads.')
  if (rope === null) return refuse('it takes the rotation away, and the forward pass rotates.', 'Keep some pairs.')
  if (rope.dim > keyDim || rope.frequencies.length !== rope.dim / 2)
    refuse(
      `it rotates ${rope.dim} of ${keyDim} channels by ${rope.frequencies.length} frequencies.`,
      'Give one frequency for every two rotated channels.',
    )
  return {
    ...base,
    name: after.name,
    layers,
    queryHeads,
    kvHeads,
    keyDim,
    valueDim,
    contextLength: after.contextLength === before.contextLength ? base.contextLength : after.contextLength,
    rope:
      rope === before.rope
        ? base.rope
        : {
            theta: base.rope.theta,
            dim: rope.dim,
            scaling: {
              kind: 'frequencies',
              frequencies: [...rope.frequencies],
              attentionFactor: rope.attentionFactor,
            },
          },
    attentionScale: attentionScale === 1 / Math.sqrt(keyDim) ? undefined : attentionScale,
  }
}

function checkShape(stage: string, name: string, { shape }: Tensor, expected: readonly number[]): void {
  if (shape.length === expected.length && shape.every((size, axis) => size === expected[axis])) return
  throw new ModelMismatch(
    stage,
    `it makes ${name} of shape [${shape.join(', ')}], its own sizes ask for [${expected.join(', ')}].`,
    'Make weights and shape agree.',
  )
}

const noWeight = (stage: string, name: string): never => {
  throw new ModelMismatch(stage, `it makes no weight "${name}".`, 'Hand on what it does not change.')
}

const unknownName = (stage: string, name: string): never => {
  throw new ModelMismatch(stage, `it makes a weight "${name}".`, "Use the names of the model's own weights.")
}
