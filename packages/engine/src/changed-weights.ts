// A model with other numbers in some of its weights, as training makes them.
import { OptionError } from '@kvloom/core'
import { type LoadModelOptions, loadModelFiles, type Model } from './model'
import type { WeightInfo } from './models/model-files'
import type { WeightValues } from './trained-weights'

/**
 * A copy of a model in which some weights have other values, held as f32; the others stay packed as in the file.
 * @param fingerprint of the new model, which tells its weights from the old ones
 * @returns a new model, the caller's to dispose, which does not need the first one
 * @throws OptionError for weights that the model lacks or of another size; what `loadModel` throws
 */
export async function withWeights(
  model: Model,
  values: WeightValues,
  fingerprint: string,
  options: Pick<LoadModelOptions, 'onProgress' | 'signal'> = {},
): Promise<Model> {
  const { kind, config, metadata, warnings } = model.files
  const base = model.files
  const weights = new Map<string, WeightInfo>(base.weights)
  for (const [name, numbers] of values) {
    const shape = base.weights.get(name)?.shape
    if (!shape || shape.reduce((product, size) => product * size, 1) !== numbers.length)
      throw new OptionError(
        'withWeights',
        name,
        `${numbers.length} numbers`,
        shape ? `[${shape.join(', ')}] of them` : `weights of the model, such as ${[...base.weights.keys()][0]}`,
      )
    weights.set(name, { name, format: 'f32', shape, bytes: numbers.byteLength })
  }
  const files = {
    kind,
    config,
    metadata,
    weights,
    warnings,
    async tensor(name: string) {
      const numbers = values.get(name)
      if (!numbers) return base.tensor(name)
      const data = new Uint8Array(numbers.slice().buffer)
      return { format: 'f32' as const, shape: weights.get(name)?.shape ?? [], data }
    },
    tokenizer: () => base.tokenizer(),
  }
  return loadModelFiles(files, { ...options, backend: model.backend }, () => fingerprint)
}
