/**
 * compareRows(): every row is checked against the model, then one uncompressed run and every composition over the same tokens,
 * then the times of all rows side by side. Each finished composition is in the report file at once; an error stays in its
 * row; an interruption keeps what is done.
 */
import { createHash } from 'node:crypto'
import type { Artifact, KVCompressor } from '@kvloom/core'
import { EvalOptionError } from './errors'
import { describeComposition, describeMachine, describeVersions } from './report/describe'
import { type CompositionReport, type Report, SCHEMA_VERSION } from './report/schema'
import { Comparison, UNCOMPRESSED } from './run/comparison'
import { type PasskeyTrial, trialTokens } from './run/passkey'
import type { Plan } from './run/plan'
import type { Activity, Progress } from './run/progress'
import type { ScoringModel } from './run/scoring-model'
import { type TimingPlan, timingPlan, timingTokens } from './run/timing'

/** One row of the comparison. */
export interface Composition {
  readonly name: string
  readonly compressor: KVCompressor
  readonly artifacts?: readonly Artifact[]
}

/** What a row runs with beyond its compressor. */
export interface PreparedRow {
  /** The model after the row's model stages; default the comparison's. */
  readonly model?: ScoringModel
  /** Artifacts of its fitted stages; default the composition's. */
  readonly artifacts?: readonly Artifact[]
  /** Called when the row is done. */
  dispose?(): void
}

export interface CompareRowsOptions {
  readonly model: ScoringModel
  /** What the model is called in the report. Default: the name in its shape. */
  readonly modelName?: string
  /** Backend the model runs on, for the report. */
  readonly backend: string
  /** Token ids of the text, at least the plan's. */
  readonly ids: Int32Array
  /** What the text is called in the report. */
  readonly textName: string
  readonly plan: Plan
  readonly compositions: readonly Composition[]
  /** Decode steps per row that are timed, side by side with those of all rows. Default 16; 0 times nothing. */
  readonly decodeTokens?: number
  /** Bytes that the caches of rows timed side by side may hold together; rows beyond it are timed in further groups. Default 1 GiB. */
  readonly timingBytes?: number
  /** Positions at which attention outputs are compared. Default 64. */
  readonly attentionPositions?: number
  /** Default none. */
  readonly passkeyTrials?: readonly PasskeyTrial[]
  readonly seed?: number
  /** JSON file to keep up to date. Default: none is written. */
  readonly file?: string
  /**
   * Called for every row before the first one runs; throws what the row fails with. Default: `checkModel` on the comparison's
   * model, for rows without model stages that change it.
   */
  readonly check?: (composition: Composition) => void | Promise<void>
  /** Called before a row runs, and again before it is timed when it ran on a model of its own: calibrates what needs it, makes the model its model stages ask for. Default: nothing. */
  readonly prepare?: (composition: Composition, busy: (activity: Activity) => void) => Promise<PreparedRow>
  /** Called when a row is measured (its times come later), failed or interrupted; awaited. */
  readonly onRow?: (row: CompositionReport) => void | Promise<void>
  readonly onProgress?: (progress: Progress) => void
  readonly signal?: AbortSignal
}

/**
 * Runs the comparison.
 * @returns the report; its status is `interrupted` when the signal was aborted, rows that failed carry their error
 * @throws EvalOptionError for settings that cannot work, ReportError when the file cannot be written, and what the uncompressed run throws
 */
export async function compareRows(options: CompareRowsOptions): Promise<Report> {
  checkOptions(options)
  const timing = timingPlan(options.plan, options.decodeTokens ?? DECODE_TOKENS)
  const run = new Comparison(options, await openReport(options, timing), timing)
  return run.run()
}

/** Decode steps that are timed when nobody says. */
const DECODE_TOKENS = 16

function checkOptions({ model, plan, ids, compositions, decodeTokens = DECODE_TOKENS }: CompareRowsOptions): void {
  if (compositions.length === 0) throw new EvalOptionError('compositions', 0, 'at least one', 'Name a composition.')
  if (!Number.isInteger(decodeTokens) || decodeTokens < 0)
    throw new EvalOptionError('decodeTokens', decodeTokens, 'a whole number from 0', '0 times nothing.')
  if (ids.length < plan.tokens)
    throw new EvalOptionError(
      'tokens',
      plan.tokens,
      `at most ${ids.length}, the length of the text`,
      'Give a longer text or ask for fewer tokens.',
    )
  const { contextLength } = model.shape
  const timed = timingTokens(timingPlan(plan, decodeTokens))
  if (Math.max(plan.tokens, timed) > contextLength)
    throw new EvalOptionError(
      'tokens',
      timed > plan.tokens ? `${plan.tokens} (and ${timed - plan.tokens} to time decoding)` : plan.tokens,
      `${timed > plan.tokens ? 'together ' : ''}at most ${contextLength}, the model's context`,
      'Ask for fewer tokens.',
    )
}

async function openReport(options: CompareRowsOptions, timing: TimingPlan | null): Promise<Report> {
  const { model, plan, passkeyTrials = [] } = options
  const { shape } = model
  const used = options.ids.slice(0, plan.tokens)
  return {
    kind: 'kvloom-report',
    schemaVersion: SCHEMA_VERSION,
    status: 'running',
    startedAt: new Date().toISOString(),
    finishedAt: null,
    seed: options.seed ?? 0,
    versions: await describeVersions(),
    machine: describeMachine(options.backend),
    model: {
      name: options.modelName ?? shape.name,
      fingerprint: shape.fingerprint,
      layers: shape.layers,
      queryHeads: shape.queryHeads,
      kvHeads: shape.kvHeads,
      keyDim: shape.keyDim,
      valueDim: shape.valueDim,
      contextLength: shape.contextLength,
      vocabSize: model.config.vocabSize,
    },
    text: {
      name: options.textName,
      tokens: plan.tokens,
      sha256: createHash('sha256').update(new Uint8Array(used.buffer)).digest('hex'),
    },
    protocol: {
      name: plan.protocol,
      tokens: plan.tokens,
      chunk: plan.chunk,
      promptTokens: plan.promptTokens,
      scoredTargets: { ...plan.targets },
      comparedRows: { ...plan.rows },
      decodeTokens: timing?.rounds ?? 0,
      timing: timing && {
        contextTokens: timing.contextTokens,
        warmUpRounds: timing.warmUpRounds,
        rounds: timing.rounds,
        groups: 0,
      },
      attentionPositions: options.attentionPositions ?? 64,
      passkeyTrials: passkeyTrials.length,
      passkeyTokens: Math.max(0, ...passkeyTrials.map(trialTokens)),
    },
    baseline: describeComposition('uncompressed f32', UNCOMPRESSED),
    compositions: options.compositions.map((c) => describeComposition(c.name, c.compressor)),
  }
}
