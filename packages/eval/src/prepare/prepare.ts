/** Everything a composition needs before its cache opens: its model, and artifacts from files, from the user's cache, or fitted now. */
import { mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import {
  type Artifact,
  checkCompressor,
  checkModel,
  type KVCompressor,
  learningStages,
  type ModelShape,
  needsCalibration,
  type Ready,
  ready,
} from '@kvloom/core'
import { applyModelStages, defaultCacheDir, type Model, saveArtifacts, shapeBehindModelStages } from '@kvloom/engine'
import { calibrationText } from '../calibration-text'
import { checkModelGiven } from '../given'
import { type CalibrateCompositionOptions, calibrateComposition, calibrationKey } from './calibrate-composition'
import { fitting, givenFitting } from './given-artifacts'
import { loadIfThere, PartialFile } from './partial-file'

/**
 * The model as a compressor's weight-changing stages leave it; `model` itself when none changes weights. Stages that are fitted
 * (KVSharer) choose whose rows a layer reads and leave the weights alone.
 */
export async function modelFor(model: Model, compressor: KVCompressor, signal?: AbortSignal): Promise<Model> {
  const changing = weightStages(compressor)
  return changing ? applyModelStages(model, ready(changing), signal ? { signal } : {}) : model
}

/** The shape of that model, before any of its weights are made. @throws ModelMismatch */
export function shapeFor(model: Model, compressor: KVCompressor): ModelShape {
  const changing = weightStages(compressor)
  return changing ? shapeBehindModelStages(model, ready(changing)) : model.shape
}

/**
 * Whether a composition can run on a model, before anything is fitted or any weights are made.
 * @throws what it would be refused with: ModelMismatch, IncompatibleStages, WindowError, ArtifactMismatch
 */
export function checkComposition(model: Model, compressor: KVCompressor, given: readonly Artifact[] = []): void {
  const shape = shapeFor(model, compressor)
  checkModel(shape, compressor, givenFitting(given, shape, compressor))
}

function weightStages({ card, stages }: KVCompressor): KVCompressor | null {
  const changing = stages.filter((s) => s.kind === 'model' && !s.fit)
  return changing.length === 0 ? null : { card, stages: changing }
}

/** Where artifacts that were fitted on the fly are kept: beside the models. */
export const artifactCacheDir = (modelCacheDir: string = defaultCacheDir()): string =>
  join(dirname(modelCacheDir), 'artifacts')

export interface PrepareOptions extends Omit<CalibrateCompositionOptions, 'known' | 'onPartial'> {
  /** Artifacts given by the user. One of a stage that the compressor has must fit. */
  readonly given?: readonly Artifact[]
  /** Folder that keeps what is fitted here. Default beside the model cache. */
  readonly cacheDir?: string
}

export interface Prepared {
  /** The model to run: the one given, or a new one when model stages change it. */
  readonly model: Model
  readonly artifacts: readonly Artifact[]
  /** The compressor with its artifacts, as caches of that model take it. */
  readonly ready: Ready
  /** Frees a new model. */
  dispose(): void
}

/**
 * Everything a composition needs before its cache opens: its model, and artifacts (given, kept from before, or fitted now).
 * @throws OptionError; ArtifactMismatch when a given artifact was fitted for something else; what fitting throws
 */
export async function prepareComposition(options: PrepareOptions): Promise<Prepared> {
  checkModelGiven('prepareComposition', options.model)
  checkCompressor('prepareComposition', options.compressor)
  const { compressor, given = [], signal } = options
  checkComposition(options.model, compressor, given)
  const model = await modelFor(options.model, compressor, signal)
  const dispose = (): void => {
    if (model !== options.model) model.dispose()
  }
  try {
    const artifacts = needsCalibration(compressor) ? await cachedArtifacts({ ...options, model }, given) : []
    return { model, artifacts, ready: ready(compressor, artifacts), dispose }
  } catch (error) {
    dispose()
    throw error
  }
}

async function cachedArtifacts(options: PrepareOptions, given: readonly Artifact[]): Promise<readonly Artifact[]> {
  const { model, compressor, data = {}, cacheDir = artifactCacheDir() } = options
  const taken = givenFitting(given, model.shape, compressor)
  if (isComplete(taken, compressor)) return taken
  const text = data.text ?? (await calibrationText())
  const file = join(cacheDir, `${calibrationKey(model, compressor, data, text)}.safetensors`)
  const partial = new PartialFile(`${file}.partial`)
  const before = fitting(await loadIfThere(file), model.shape, compressor)
  if (isComplete(before, compressor)) return before
  await mkdir(cacheDir, { recursive: true })
  try {
    const artifacts = await calibrateComposition({
      ...options,
      data: { ...data, text },
      known: [...fitting(await loadIfThere(`${file}.partial`), model.shape, compressor), ...taken],
      onPartial: partial.put,
    })
    await saveArtifacts(file, artifacts)
    await partial.remove()
    return artifacts
  } catch (error) {
    await partial.close()
    throw error
  }
}

/** Whether every stage that learns has an artifact. Files hold whole ones; only a `.partial` file does not. */
const isComplete = (artifacts: readonly Artifact[], compressor: KVCompressor): boolean =>
  [...learningStages(compressor)].every((id) => artifacts.some(({ stage }) => stage === id))
