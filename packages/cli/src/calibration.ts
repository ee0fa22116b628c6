/** Fits what a composition needs fitted: from files, from the user's cache, or now; what is fitted so far is kept. */
import { createHash } from 'node:crypto'
import { access, mkdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type Artifact, calibrate, type KVCompressor, type ModelShape, needsCalibration, ready } from '@kvloom/core'
import {
  ArtifactFileError,
  applyModelStages,
  type CalibrationProgress,
  calibrationRun,
  defaultCacheDir,
  loadArtifacts,
  type Model,
  saveArtifacts,
  shapeBehindModelStages,
} from '@kvloom/engine'
import { calibrationText, calibrationTokens, InterruptedError } from '@kvloom/eval'
import { fitting, givenFitting, learningStages } from './given-artifacts'

/** On what a composition is fitted. */
export interface CalibrationData {
  /** Default: the bundled public-domain text. */
  readonly text?: string
  /** Default 8. */
  readonly sequences?: number
  /** Tokens per sequence. Default 2048, or the model's context where that is shorter. */
  readonly tokens?: number
}

export interface CalibrationState {
  /** 0 to 1. */
  readonly fraction: number
  /** The stage that is fitted. */
  readonly label: string
  /** Where it stands. */
  readonly detail: string
  /** null until there is something to judge by. */
  readonly secondsLeft: number | null
}

export interface CalibrateOptions {
  readonly model: Model
  readonly compressor: KVCompressor
  readonly data?: CalibrationData
  /** Artifacts that are there already, whole or partial, and taken over. One that was fitted for something else is refused. */
  readonly known?: readonly Artifact[]
  /** Called with all that is fitted so far; awaited. */
  readonly onPartial?: (partial: readonly Artifact[]) => void | Promise<void>
  readonly onProgress?: (state: CalibrationState) => void
  readonly signal?: AbortSignal
}

/**
 * Fits every stage that needs it.
 * @param options `model` is the one the cache will run on: behind its model stages (`modelOf`)
 * @throws InterruptedError when the signal is aborted; ArtifactMismatch; CalibrationError; EvalOptionError for a text that is too short
 */
export async function calibrateComposition(options: CalibrateOptions): Promise<readonly Artifact[]> {
  const { model, compressor, data = {}, known = [], onPartial, onProgress, signal } = options
  if (!needsCalibration(compressor)) return []
  const ids = calibrationTokens({
    text: data.text ?? (await calibrationText()),
    tokenizer: model.tokenizer,
    tokens: data.tokens ?? defaultTokens(model),
    ...(data.sequences === undefined ? {} : { sequences: data.sequences }),
    sentenceTokens: Math.min(64, model.shape.contextLength),
  })
  const meter = new FitMeter(compressor, model.shape.layers, onProgress)
  const run = calibrationRun(model, {
    ...ids,
    onProgress: (progress) => meter.at(progress),
    ...(signal ? { signal } : {}),
  })
  try {
    const done = await calibrate(compressor, run, {
      known: givenFitting(known, model.shape, compressor),
      ...(onPartial ? { onArtifacts: onPartial } : {}),
      ...(signal ? { signal } : {}),
    })
    return done.artifacts
  } catch (error) {
    if (signal?.aborted) throw new InterruptedError()
    throw error
  }
}

/** Tokens of a calibration sequence when nobody says. */
const defaultTokens = (model: Model): number => Math.min(2048, model.shape.contextLength)

/**
 * The model as a compressor's weight-changing stages leave it; `model` itself when none changes weights. Stages that are fitted
 * (KVSharer) choose whose rows a layer reads and leave the weights alone.
 */
export async function modelOf(model: Model, compressor: KVCompressor, signal?: AbortSignal): Promise<Model> {
  const changing = weightStages(compressor)
  return changing ? applyModelStages(model, ready(changing), signal ? { signal } : {}) : model
}

/** The shape of that model, before any of its weights are made. @throws ModelMismatch */
export function shapeOf(model: Model, compressor: KVCompressor): ModelShape {
  const changing = weightStages(compressor)
  return changing ? shapeBehindModelStages(model, ready(changing)) : model.shape
}

function weightStages({ card, stages }: KVCompressor): KVCompressor | null {
  const changing = stages.filter((s) => s.kind === 'model' && !s.fit)
  return changing.length === 0 ? null : { card, stages: changing }
}

/** Turns what driver and engine report into a share of the work: the pieces of work are stages times layers times parts. */
class FitMeter {
  private readonly started = performance.now()
  private readonly pieces: number
  private done = -1
  private shown = 0
  private label = 'calibrating'
  private place = ''

  constructor(
    compressor: KVCompressor,
    private readonly layers: number,
    private readonly report: ((state: CalibrationState) => void) | undefined,
  ) {
    this.pieces = compressor.stages
      .filter((s) => s.fit)
      .reduce((sum, s) => {
        if (s.fit?.scope === 'model') return sum + 1
        const on = (s.on?.layers?.length ?? layers) - (s.on?.except?.length ?? 0)
        return sum + Math.max(0, on) * (s.on?.part === undefined ? 2 : 1)
      }, 0)
  }

  at(progress: CalibrationProgress): void {
    if (progress.doing === 'fit') {
      this.done++
      const { stage, layer, part } = progress
      this.label = `calibrating ${stage}`
      this.place = `layer ${layer + 1}/${this.layers}${part === null ? '' : `, ${part}`}`
      this.show(this.place, 0)
    } else {
      const { doing, done, total } = progress
      const place = this.place ? `${this.place}: ` : ''
      this.show(`${place}${WORK[doing]} ${done}/${total}`, total > 0 ? done / total : 0)
    }
  }

  private show(detail: string, within: number): void {
    const now = (Math.max(0, this.done) + Math.min(1, within) / 2) / Math.max(1, this.pieces)
    // Rows of a layer come before the piece that they are for counts, so the plain number would go back.
    const fraction = Math.min(1, Math.max(this.shown, now))
    this.shown = fraction
    const elapsed = (performance.now() - this.started) / 1000
    this.report?.({
      fraction,
      label: this.label,
      detail,
      secondsLeft: fraction > 0.01 ? (elapsed * (1 - fraction)) / fraction : null,
    })
  }
}

const WORK = { rows: 'keys and values', gradients: 'gradients', hidden: 'hidden states' } as const

/** Keeps what is fitted so far in a file; short layers are not worth a write each. */
export class PartialFile {
  private newest: readonly Artifact[] | null = null
  private lastWrite = Number.NEGATIVE_INFINITY

  /** @param pause seconds between two writes; `close` writes what is newer. */
  constructor(
    private readonly file: string,
    private readonly pause = 5,
  ) {}

  readonly put = async (partial: readonly Artifact[]): Promise<void> => {
    this.newest = partial
    if (performance.now() - this.lastWrite >= this.pause * 1000) await this.close()
  }

  /** Writes what is not on disk yet. @throws ArtifactFileError */
  async close(): Promise<void> {
    const partial = this.newest
    if (!partial || partial.length === 0) return
    this.newest = null
    await saveArtifacts(this.file, partial)
    this.lastWrite = performance.now()
  }

  async remove(): Promise<void> {
    this.newest = null
    await rm(this.file, { force: true })
  }
}

/** Says on what and for what artifacts were fitted: the same key, the same numbers. */
export function calibrationKey(model: Model, compressor: KVCompressor, data: CalibrationData, text: string): string {
  const { sequences = 8, tokens = defaultTokens(model) } = data
  const stages = compressor.stages.map(({ kind, id, options, when, on }) => ({ kind, id, options, when, on }))
  const parts = {
    model: model.shape.fingerprint,
    stages,
    window: compressor.window,
    ownRows: compressor.ownRows,
    sequences,
    tokens,
    text,
  }
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 16)
}

/** Where artifacts that were fitted on the fly are kept: beside the models. */
export const artifactCacheDir = (modelCacheDir: string = defaultCacheDir()): string =>
  join(dirname(modelCacheDir), 'artifacts')

export interface PrepareOptions extends Omit<CalibrateOptions, 'known' | 'onPartial'> {
  /** Artifacts given by the user. One of a stage that the compressor has must fit. */
  readonly given?: readonly Artifact[]
  /** Folder that keeps what is fitted here. Default beside the model cache. */
  readonly cacheDir?: string
}

export interface Prepared {
  /** The model to run: the one given, or a new one when model stages change it. */
  readonly model: Model
  readonly artifacts: readonly Artifact[]
  /** Frees a new model. */
  dispose(): void
}

/**
 * Everything a composition needs before its cache opens: its model, and artifacts (given, kept from before, or fitted now).
 * @throws ArtifactMismatch when a given artifact was fitted for something else; what fitting throws
 */
export async function prepareComposition(options: PrepareOptions): Promise<Prepared> {
  const { compressor, given = [], signal } = options
  const model = await modelOf(options.model, compressor, signal)
  const dispose = (): void => {
    if (model !== options.model) model.dispose()
  }
  try {
    const artifacts = needsCalibration(compressor) ? await cachedArtifacts({ ...options, model }, given) : []
    return { model, artifacts, dispose }
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

/** What a file holds; nothing when it is not there or is damaged, since everything in it can be fitted again. */
export async function loadIfThere(file: string): Promise<readonly Artifact[]> {
  try {
    await access(file)
  } catch {
    return []
  }
  try {
    return await loadArtifacts(file)
  } catch (error) {
    if (error instanceof ArtifactFileError) return []
    throw error
  }
}
