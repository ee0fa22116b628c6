/** compare(): compressors on a model and a text, with the settings that the command line has. */
import { basename } from 'node:path'
import { type Artifact, checkModel, KvloomError, OptionError, refuseUnknown } from '@kvloom/core'
import { findKnownModel, type Model } from '@kvloom/engine'
import { compareRows } from '../compare-rows'
import { EvalOptionError } from '../errors'
import { checkModelGiven, textGiven } from '../given'
import type { CalibrationData } from '../prepare/calibrate-composition'
import { givenFitting } from '../prepare/given-artifacts'
import { prepareComposition, shapeFor } from '../prepare/prepare'
import type { Report } from '../report/schema'
import type { CompareRowsOptions, Composition, PreparedRow } from '../run/options'
import type { Activity } from '../run/progress'
import { type PlanWish, type ProtocolName, planFor, protocolFor, sizesFor } from './protocol'
import { type Compositions, rowsOf } from './rows'
import { SAMPLE_TEXT_NAME, sampleText, trialsFor } from './sample-text'

export interface CompareOptions
  extends PlanWish,
    Pick<
      CompareRowsOptions,
      'decodeTokens' | 'timingBytes' | 'attentionPositions' | 'seed' | 'file' | 'onRow' | 'onProgress' | 'signal'
    > {
  /** A model of `loadModel`. */
  readonly model: Model
  /** What is compared with the uncompressed cache; what learns and what changes the model is fitted and applied on demand. */
  readonly compositions: Compositions
  /** The text itself. Default: a bundled public-domain text. */
  readonly text?: string
  /** What the text is called in the report. */
  readonly textName?: string
  /** What the model is called in the report. Default: the name or file that `loadModel` was given. */
  readonly modelName?: string
  /**
   * P: chunks over a compressed past; E: compress a prompt once; W: one prompt read as it is stored. Default 'auto': E as soon as
   * something acts at the end of a prompt, W when all rows are read as they are stored, else P.
   */
  readonly protocol?: ProtocolName | 'auto'
  /** Tokens of the text. Default 768, or less where the text is shorter; 960 or 1024 on the tiny model. */
  readonly tokens?: number
  /** Passkey trials per row. Default 3, on the tiny model 5; 0 for none. */
  readonly passkeys?: number
  /** Tokens of a passkey trial. Default 300, on the tiny model 1000. */
  readonly passkeyTokens?: number
  /** Artifacts that are there already. One of a stage that a row has must fit. */
  readonly artifacts?: readonly Artifact[]
  /** On what is fitted that no artifact is given for. Default: as `calibrateOn`. */
  readonly calibration?: CalibrationData
  /** Folder that keeps what is fitted here. Default beside the model cache. */
  readonly artifactDir?: string
  /** Puts a refusal of a row into other words. */
  readonly inWords?: (error: KvloomError) => string
}

const OPTIONS: readonly (keyof CompareOptions)[] = [
  'model',
  'compositions',
  'text',
  'textName',
  'modelName',
  'protocol',
  'tokens',
  'chunk',
  'promptTokens',
  'scoreFrom',
  'passkeys',
  'passkeyTokens',
  'decodeTokens',
  'timingBytes',
  'attentionPositions',
  'seed',
  'file',
  'artifacts',
  'calibration',
  'artifactDir',
  'inWords',
  'onRow',
  'onProgress',
  'signal',
]

/**
 * Compares compressors with an uncompressed cache: quality, the bytes really held, and time. The report is for `renderTable`,
 * `renderHtml` and `writeReport`.
 * @returns the report; its status is `interrupted` when the signal was aborted, rows that failed carry their error
 * @throws OptionError, EvalOptionError for settings that cannot work; ReportError when `file` cannot be written
 */
export async function compare(options: CompareOptions): Promise<Report> {
  refuseUnknown('compare', options, OPTIONS)
  const { model, artifacts = [], decodeTokens = 16, seed = 0 } = options
  checkModelGiven('compare', model)
  const compositions = rowsOf(options.compositions)
  const protocol = protocolGiven(options.protocol ?? 'auto', compositions)
  const sizes = sizesFor(model)
  const text = options.text === undefined ? await sampleText() : textGiven('compare', options.text)
  const tokens = options.tokens ?? sizes.tokens[protocol]
  checkCounts({ tokens, decodeTokens, passkeys: options.passkeys, passkeyTokens: options.passkeyTokens })
  const ids = model.tokenizer.encodeFirst(text, tokens + decodeTokens, { special: false })
  const plan = planFor(protocol, options.tokens === undefined ? Math.min(tokens, ids.length) : tokens, options)
  const passkeyTrials = await trialsFor(model, {
    trials: options.passkeys ?? sizes.passkeyTrials,
    tokens: options.passkeyTokens ?? sizes.passkeyTokens,
    seed,
  })
  return compareRows({
    ...picked(options, ['timingBytes', 'attentionPositions', 'file', 'onRow', 'onProgress', 'signal']),
    model,
    modelName: options.modelName ?? nameOf(model),
    backend: model.backend,
    ids,
    textName: options.textName ?? (options.text === undefined ? SAMPLE_TEXT_NAME : 'given text'),
    plan,
    compositions,
    decodeTokens,
    passkeyTrials,
    seed,
    check: (row) => checkRow(row, model, artifacts, options.inWords),
    prepare: (row, busy) => prepareRow(row, options, busy),
  })
}

function protocolGiven(asked: string, compositions: readonly Composition[]): ProtocolName {
  if (asked === 'P' || asked === 'E' || asked === 'W') return asked
  if (asked !== 'auto') throw new OptionError('compare', 'protocol', asked, '"P", "E", "W", "auto"')
  return protocolFor(compositions.map((c) => c.compressor))
}

function checkCounts(counts: Readonly<Record<string, number | undefined>>): void {
  for (const [name, given] of Object.entries(counts))
    if (given !== undefined && !(Number.isInteger(given) && given >= 0))
      throw new EvalOptionError(name, given, 'a whole number from 0', 'Give how many.')
}

/** Whether a row can run on this model, with what was given for it. @throws what it would fail with */
function checkRow(
  { compressor, artifacts = [] }: Composition,
  model: Model,
  given: readonly Artifact[],
  inWords: CompareOptions['inWords'],
): void {
  try {
    const shape = shapeFor(model, compressor)
    checkModel(shape, compressor, givenFitting([...given, ...artifacts], shape, compressor))
  } catch (error) {
    if (!inWords || !(error instanceof KvloomError)) throw error
    const said = new KvloomError(error.code, inWords(error), { cause: error })
    said.name = error.name
    throw said
  }
}

/** Fits what is missing and applies model stages. */
async function prepareRow(
  { compressor, artifacts = [] }: Composition,
  { model, artifacts: given = [], calibration, artifactDir, signal }: CompareOptions,
  busy: (activity: Activity) => void,
): Promise<PreparedRow> {
  if (!compressor.stages.some((s) => s.fit || s.kind === 'model')) return {}
  return prepareComposition({
    model,
    compressor,
    given: [...given, ...artifacts],
    ...(calibration ? { data: calibration } : {}),
    ...(artifactDir === undefined ? {} : { cacheDir: artifactDir }),
    ...(signal ? { signal } : {}),
    onProgress: ({ label, detail, secondsLeft }) => busy({ activity: label, detail, secondsLeft }),
  })
}

/** The short name where there is one; file names and metadata are often cryptic. */
function nameOf({ origin, shape }: Model): string {
  if (origin === null) return shape.name
  if (origin.source === 'path') return basename(origin.path)
  return findKnownModel(origin.name)?.name ?? origin.name
}

/** The fields that were given, of those named. */
function picked<O extends object, K extends keyof O>(options: O, names: readonly K[]): Pick<O, K> {
  return Object.fromEntries(
    names.filter((name) => options[name] !== undefined).map((name) => [name, options[name]]),
  ) as Pick<O, K>
}
