/** What stages of kind `model` make of a synthetic model: a new shape, and weights that fit it. */
import { type KVCompressor, type ModelShape, type ModelWeights, siteOf } from '@kvloom/core'
import { syntheticRun } from './synthetic-run'

export interface ChangedModel {
  readonly shape: ModelShape
  /** Weights that do not fit the new shape, in words. */
  misfits(): Promise<readonly string[]>
}

/** The model that a compressor runs on. @throws what its model stages refuse */
export function behindModelStages(model: ModelShape, { stages }: KVCompressor): ChangedModel {
  const original = syntheticRun(model).weights
  let weights: ModelWeights = original
  const transformedBy: string[] = []
  for (const stage of stages) {
    if (stage.kind !== 'model' || stage.fit) continue
    const { transform } = stage.bind(siteOf(weights.shape, 0, 'keys'))
    if (!transform) continue
    weights = transform(weights)
    transformedBy.push(stage.id)
  }
  if (weights === original) return { shape: model, misfits: async () => [] }
  return { shape: { ...weights.shape, transformedBy }, misfits: () => misfitsOf(weights) }
}

async function misfitsOf(weights: ModelWeights): Promise<readonly string[]> {
  const { kvHeads, keyDim, valueDim } = weights.shape
  const found: string[] = []
  for (const name of weights.names()) {
    const rows = kvHeads * (name.endsWith('.key') ? keyDim : valueDim)
    const weight = await weights.get(name)
    if (weight.shape[0] !== rows) found.push(`${name} has ${weight.shape[0]} rows and not ${rows}`)
    weight.dispose()
  }
  return found
}
