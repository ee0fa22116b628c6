/** Fits what a composition needs fitted, on a text. */
import { createHash } from 'node:crypto'
import {
  type Artifact,
  calibrate,
  checkCompressor,
  type KVCompressor,
  needsCalibration,
  type Ready,
  ready,
  refuseUnknown,
} from '@kvloom/core'
import { calibrationRun, type Model } from '@kvloom/engine'
import { calibrationText, calibrationTokens } from '../calibration-text'
import { InterruptedError } from '../errors'
import { checkModelGiven, textGiven } from '../given'
import { type CalibrationState, FitMeter } from './fit-meter'
import { givenFitting } from './given-artifacts'

/** On what a composition is fitted. */
export interface CalibrationData {
  /** Default: the bundled public-domain text. */
  readonly text?: string
  /** Default 8. */
  readonly sequences?: number
  /** Tokens per sequence. Default 2048, or the model's context where that is shorter. */
  readonly tokens?: number
  /** Whether every sequence begins with the model's start token, which counts as one of its tokens. Default false. */
  readonly startToken?: boolean
}

export interface CalibrateCompositionOptions {
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
export async function calibrateComposition(options: CalibrateCompositionOptions): Promise<readonly Artifact[]> {
  const { model, compressor, data = {}, known = [], onPartial, onProgress, signal } = options
  if (!needsCalibration(compressor)) return []
  const ids = calibrationTokens({
    text: data.text ?? (await calibrationText()),
    tokenizer: model.tokenizer,
    tokens: data.tokens ?? defaultTokens(model),
    ...(data.sequences === undefined ? {} : { sequences: data.sequences }),
    startToken: data.startToken ?? false,
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

/** What `calibrateOn` takes beside model and compressor. */
export interface CalibrateOnOptions extends CalibrationData {
  /** Artifacts that are there already, whole or partial. One that was fitted for something else is refused. */
  readonly known?: readonly Artifact[]
  readonly onPartial?: (partial: readonly Artifact[]) => void | Promise<void>
  readonly onProgress?: (state: CalibrationState) => void
  readonly signal?: AbortSignal
}

/**
 * Fits every stage of a compressor that learns, on a text, and gives what opens caches; `saveArtifacts` keeps its artifacts.
 * @param model the one that caches will run on; for a compressor that changes weights use `prepareComposition`, which makes that model
 * @throws OptionError; what `calibrateComposition` throws
 */
export async function calibrateOn(
  model: Model,
  compressor: KVCompressor,
  options: CalibrateOnOptions = {},
): Promise<Ready> {
  checkModelGiven('calibrateOn', model)
  checkCompressor('calibrateOn', compressor)
  refuseUnknown('calibrateOn', options, [
    'text',
    'sequences',
    'tokens',
    'startToken',
    'known',
    'onPartial',
    'onProgress',
    'signal',
  ])
  const { text, sequences, tokens, startToken, ...rest } = options
  const data = {
    ...(text === undefined ? {} : { text: textGiven('calibrateOn', text) }),
    ...(sequences === undefined ? {} : { sequences }),
    ...(tokens === undefined ? {} : { tokens }),
    ...(startToken === undefined ? {} : { startToken }),
  }
  return ready(compressor, await calibrateComposition({ model, compressor, data, ...rest }))
}

/** Tokens of a calibration sequence when nobody says. */
const defaultTokens = (model: Model): number => Math.min(2048, model.shape.contextLength)

/** Says on what and for what artifacts were fitted: the same key, the same numbers. */
export function calibrationKey(model: Model, compressor: KVCompressor, data: CalibrationData, text: string): string {
  const { sequences = 8, tokens = defaultTokens(model), startToken = false } = data
  const stages = compressor.stages.map(({ kind, id, options, when, on }) => ({ kind, id, options, when, on }))
  const parts = {
    model: model.shape.fingerprint,
    stages,
    window: compressor.window,
    ownRows: compressor.ownRows,
    sequences,
    tokens,
    ...(startToken ? { startToken } : {}),
    text,
  }
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 16)
}
