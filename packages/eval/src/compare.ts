/**
 * compare(): one uncompressed run, then every composition over the same tokens. Each finished composition is in the
 * report file at once; an error stays in its row; an interruption keeps what is done.
 */
import { createHash } from 'node:crypto'
import type { Artifact, KVCompressor } from '@kvloom/core'
import { EvalOptionError, InterruptedError } from './errors'
import { samplePositions } from './metrics/attention-watch'
import { describeComposition, describeMachine, describeVersions } from './report/describe'
import { writeReport } from './report/file'
import { type CompositionReport, type Report, type ResultReport, SCHEMA_VERSION } from './report/schema'
import { openLogitStore } from './run/logit-store'
import { emptyReference, type Measures, measure, type Reference } from './run/measure'
import { type PasskeyResult, type PasskeyTrial, passkey, trialTokens } from './run/passkey'
import type { Plan } from './run/plan'
import { type Activity, type Progress, ProgressMeter } from './run/progress'
import type { ScoringModel } from './run/scoring-model'

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

export interface CompareOptions {
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
  /** Single-token steps for the decode time. Default 16. */
  readonly decodeTokens?: number
  /** Positions at which attention outputs are compared. Default 64. */
  readonly attentionPositions?: number
  /** Default none. */
  readonly passkeyTrials?: readonly PasskeyTrial[]
  readonly seed?: number
  /** JSON file to keep up to date. Default: none is written. */
  readonly file?: string
  /** Called before a row runs: calibrates what needs it, makes the model its model stages ask for. Default: nothing. */
  readonly prepare?: (composition: Composition, busy: (activity: Activity) => void) => Promise<PreparedRow>
  /** Called when a row is done, failed or interrupted; awaited. */
  readonly onRow?: (row: CompositionReport) => void | Promise<void>
  readonly onProgress?: (progress: Progress) => void
  readonly signal?: AbortSignal
}

/** The uncompressed cache that everything is compared with: dense f32 rows. */
export const UNCOMPRESSED: KVCompressor = Object.freeze({
  card: { name: 'uncompressed', title: 'Uncompressed', summary: 'A dense f32 cache.', chunkInvariant: true },
  stages: [],
  store: 'f32',
})

/**
 * Runs the comparison.
 * @returns the report; its status is `interrupted` when the signal was aborted, rows that failed carry their error
 * @throws EvalOptionError for settings that cannot work, ReportError when the file cannot be written, and what the uncompressed run throws
 */
export async function compare(options: CompareOptions): Promise<Report> {
  check(options)
  const run = new Comparison(options, await openReport(options))
  return run.run()
}

function check({ model, plan, ids, compositions, decodeTokens = 16 }: CompareOptions): void {
  if (compositions.length === 0) throw new EvalOptionError('compositions', 0, 'at least one', 'Name a composition.')
  if (ids.length < plan.tokens)
    throw new EvalOptionError(
      'tokens',
      plan.tokens,
      `at most ${ids.length}, the length of the text`,
      'Give a longer text or ask for fewer tokens.',
    )
  const needed = plan.tokens + decodeTokens
  if (needed > model.shape.contextLength)
    throw new EvalOptionError(
      'tokens',
      `${plan.tokens} (and ${decodeTokens} to time decoding)`,
      `together at most ${model.shape.contextLength}, the model's context`,
      'Ask for fewer tokens.',
    )
}

async function openReport(options: CompareOptions): Promise<Report> {
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
      decodeTokens: options.decodeTokens ?? 16,
      attentionPositions: options.attentionPositions ?? 64,
      passkeyTrials: passkeyTrials.length,
      passkeyTokens: Math.max(0, ...passkeyTrials.map(trialTokens)),
    },
    baseline: describeComposition('uncompressed f32', UNCOMPRESSED),
    compositions: options.compositions.map((c) => describeComposition(c.name, c.compressor)),
  }
}

class Comparison {
  private readonly meter: ProgressMeter

  constructor(
    private readonly options: CompareOptions,
    private readonly report: Report,
  ) {
    const { plan, decodeTokens = 16, passkeyTrials = [] } = options
    const text = plan.tokens + decodeTokens
    const trials = passkeyTrials.reduce((sum, t) => sum + trialTokens(t), 0)
    this.meter = new ProgressMeter(text + trials, options.compositions.length + 1, options.onProgress)
  }

  async run(): Promise<Report> {
    const { model, plan, attentionPositions = 64, compositions } = this.options
    await this.flush()
    const rows = plan.rows.to - plan.rows.from
    const store = await openLogitStore(rows, model.config.vocabSize)
    const reference = emptyReference(store, samplePositions(plan.rows.from, plan.rows.to, attentionPositions))
    try {
      await this.runOne(
        this.report.baseline,
        { name: this.report.baseline.name, compressor: UNCOMPRESSED },
        reference,
        true,
      )
      for (const [i, composition] of compositions.entries()) {
        const row = this.report.compositions[i]
        if (!row || this.options.signal?.aborted) break
        await this.runOne(row, composition, reference, false)
      }
    } finally {
      await store.dispose()
    }
    this.report.status = this.options.signal?.aborted ? 'interrupted' : 'complete'
    for (const row of [this.report.baseline, ...this.report.compositions])
      if (row.status === 'pending' || row.status === 'running') row.status = 'interrupted'
    this.report.finishedAt = new Date().toISOString()
    await this.flush()
    return this.report
  }

  /** Runs one row; its outcome, error or interruption is in the row and on disk afterwards. */
  private async runOne(
    row: CompositionReport,
    composition: Composition,
    reference: Reference,
    fill: boolean,
  ): Promise<void> {
    row.status = 'running'
    this.meter.start(row.name)
    try {
      const { prepare } = this.options
      const prepared: PreparedRow = fill
        ? {}
        : ((await prepare?.(composition, (activity) => this.meter.busy(activity))) ?? {})
      const ran = { ...composition, artifacts: prepared.artifacts ?? composition.artifacts ?? [] }
      row.artifacts = ran.artifacts.map(({ stage, fingerprint }) => ({ stage, fingerprint }))
      const model = prepared.model ?? this.options.model
      let measures: Measures
      let trials: PasskeyResult | null
      try {
        measures = await this.measured(ran, model, reference, fill)
        trials = await this.passkeys(ran, model)
      } finally {
        prepared.dispose?.()
      }
      row.result = this.resultOf(measures, trials)
      row.notes = notesOn(composition.compressor, this.options.plan, measures)
      row.status = 'done'
    } catch (error) {
      if (error instanceof InterruptedError || this.options.signal?.aborted) {
        row.status = 'interrupted'
        await this.options.onRow?.(row)
        return
      }
      row.status = 'failed'
      row.error = describeError(error)
      if (fill) {
        this.report.status = 'failed'
        this.report.finishedAt = new Date().toISOString()
        await this.flush()
        throw error
      }
    }
    this.meter.finish()
    await this.flush()
    await this.options.onRow?.(row)
  }

  private measured(
    { compressor, artifacts = [] }: Composition,
    model: ScoringModel,
    reference: Reference,
    fill: boolean,
  ): Promise<Measures> {
    const { ids, plan, decodeTokens = 16, signal } = this.options
    return measure({
      model,
      original: this.options.model.shape,
      compressor,
      artifacts,
      ids,
      plan,
      reference,
      fill,
      decodeTokens,
      onTokens: (tokens) => this.meter.at(tokens),
      ...(signal ? { signal } : {}),
    })
  }

  private async passkeys(
    { compressor, artifacts = [] }: Composition,
    model: ScoringModel,
  ): Promise<PasskeyResult | null> {
    const { plan, decodeTokens = 16, passkeyTrials = [], signal } = this.options
    if (passkeyTrials.length === 0) return null
    const before = plan.tokens + decodeTokens
    return passkey({
      model,
      compressor,
      artifacts,
      trials: passkeyTrials,
      onTokens: (tokens) => this.meter.at(before + tokens),
      ...(signal ? { signal } : {}),
    })
  }

  private resultOf(measures: Measures, trials: PasskeyResult | null): ResultReport {
    const base = this.report.baseline.result?.times ?? measures.times
    const over = (which: 'prefill' | 'decode'): number | null => {
      const own = measures.times[which]?.median
      const reference = base[which]?.median
      return own !== undefined && reference !== undefined && reference > 0 ? own / reference - 1 : null
    }
    return {
      quality: { ...measures.quality, attentionError: [...measures.quality.attentionError] },
      passkey: trials,
      footprint: measures.footprint,
      footprintAtEnd: measures.footprintAtEnd,
      bytesOverTokens: [...measures.bytesOverTokens],
      times: measures.times,
      overhead: { prefill: over('prefill'), decode: over('decode') },
      longestStep: measures.longestStep,
    }
  }

  private async flush(): Promise<void> {
    if (this.options.file) await writeReport(this.options.file, this.report)
  }
}

/** What a reader must know about a row. */
function notesOn(compressor: KVCompressor, plan: Plan, measures: Measures): string[] {
  const notes: string[] = []
  const longest = Math.max(...plan.steps.map((s) => s.end - s.start))
  if (measures.longestStep < longest)
    notes.push(
      `Fed in steps of at most ${measures.longestStep} tokens instead of ${longest}: it takes no more at once.`,
    )
  const promptEnd = compressor.stages.filter((s) => s.when === 'promptEnd').map((s) => s.id)
  if (plan.protocol === 'P' && promptEnd.length > 0)
    notes.push(
      `${[...new Set(promptEnd)].join(', ')} acts at the end of a prompt, and protocol P has none: it did nothing here. Use protocol E.`,
    )
  if (plan.protocol === 'W' && compressor.ownRows !== 'stored' && compressor.stages.some((s) => s.when === 'seal'))
    notes.push(
      `Each step of ${plan.chunk} tokens attended exactly to itself; ownRows('stored') around it makes every token read what is stored.`,
    )
  return notes
}

function describeError(error: unknown): NonNullable<CompositionReport['error']> {
  if (!(error instanceof Error)) return { name: 'Error', code: null, message: String(error) }
  const code = 'code' in error && typeof error.code === 'string' ? error.code : null
  return { name: error.name, code, message: error.message }
}
