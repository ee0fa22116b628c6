/** A comparison as it runs: rows are checked, measured one after the other, timed side by side; the report is kept up to date. */
import { checkModel, type KVCompressor } from '@kvloom/core'
import { InterruptedError } from '../errors'
import { samplePositions } from '../metrics/attention-watch'
import { writeReport } from '../report/file'
import { notesOn } from '../report/notes'
import type { CompositionReport, Report, ResultReport } from '../report/schema'
import { openLogitStore } from './logit-store'
import { emptyReference, type Measures, measure, type Reference } from './measure'
import type { CompareRowsOptions, Composition, PreparedRow } from './options'
import { type PasskeyResult, passkey, trialTokens } from './passkey'
import { ProgressMeter } from './progress'
import type { ScoringModel } from './scoring-model'
import { NOT_TIMED, type TimingPlan, timingTokens } from './timing'
import { RowTimes, type TimingCandidate } from './timing-groups'

/** The uncompressed cache that everything is compared with: dense f32 rows. */
export const UNCOMPRESSED: KVCompressor = Object.freeze({
  card: { name: 'uncompressed', title: 'Uncompressed', summary: 'A dense f32 cache.', chunkInvariant: true },
  stages: [],
  store: 'f32',
})

/** A row of the report with what it runs. */
interface Row {
  readonly place: number
  readonly report: CompositionReport
  readonly composition: Composition
}

export class Comparison {
  private meter: ProgressMeter | null = null
  private readonly times: RowTimes | null
  /** The uncompressed row once it is measured, and the rows that are timed at the end. */
  private baseline: TimingCandidate | null = null
  private readonly toTime: TimingCandidate[] = []

  constructor(
    private readonly options: CompareRowsOptions,
    private readonly report: Report,
    private readonly timing: TimingPlan | null,
  ) {
    this.times = timing && new RowTimes(options, timing, (tokens) => this.meter?.timing(tokens))
  }

  async run(): Promise<Report> {
    const { compositions, plan, passkeyTrials = [], signal, onProgress } = this.options
    const baseline: Row = {
      place: 0,
      report: this.report.baseline,
      composition: { name: this.report.baseline.name, compressor: UNCOMPRESSED },
    }
    const rows = compositions.flatMap((composition, i): Row[] => {
      const report = this.report.compositions[i]
      return report ? [{ place: i + 1, report, composition }] : []
    })
    await this.flush()
    for (const row of rows) if (!signal?.aborted) await this.check(row)
    const able = rows.filter((row) => row.report.status === 'pending')
    const trials = passkeyTrials.reduce((sum, t) => sum + trialTokens(t), 0)
    this.meter = new ProgressMeter({
      tokensPerRow: plan.tokens + trials,
      runs: able.length + 1,
      rows: rows.length + 1,
      timingTokens: (able.length + 1) * timingTokens(this.timing),
      ...(onProgress ? { report: onProgress } : {}),
    })
    // Where no row can run there is nothing to compare with, and the uncompressed run would be for nothing.
    if (able.length === 0) baseline.report.status = signal?.aborted ? 'interrupted' : 'skipped'
    else await this.measureAll(baseline, able)
    if (this.toTime.length > 0) await this.takeTimes(this.toTime)
    if (!signal?.aborted) this.meter?.end()
    return this.close()
  }

  /** Asks whether a row can run at all, before the first one does. */
  private async check({ report, composition }: Row): Promise<void> {
    const { check, model } = this.options
    try {
      if (check) await check(composition)
      else if (!composition.compressor.stages.some((s) => s.kind === 'model'))
        checkModel(model.shape, composition.compressor, composition.artifacts ?? [])
    } catch (error) {
      if (error instanceof InterruptedError || this.options.signal?.aborted) return
      report.status = 'failed'
      report.error = describeError(error)
      await this.flush()
      await this.options.onRow?.(report)
    }
  }

  private async measureAll(baseline: Row, rows: readonly Row[]): Promise<void> {
    const { model, plan, attentionPositions = 64, signal } = this.options
    const store = await openLogitStore(plan.rows.to - plan.rows.from, model.config.vocabSize)
    const reference = emptyReference(store, samplePositions(plan.rows.from, plan.rows.to, attentionPositions))
    try {
      await this.runOne(baseline, reference)
      for (const row of rows) {
        if (signal?.aborted) break
        await this.runOne(row, reference)
      }
    } finally {
      await store.dispose()
    }
  }

  private async close(): Promise<Report> {
    const interrupted = this.options.signal?.aborted
    this.report.status = interrupted ? 'interrupted' : 'complete'
    for (const row of [this.report.baseline, ...this.report.compositions])
      if (row.status === 'pending' || row.status === 'running') row.status = 'interrupted'
    this.report.finishedAt = new Date().toISOString()
    await this.flush()
    return this.report
  }

  /** Measures one row; its outcome, error or interruption is in the row and on disk afterwards. */
  private async runOne(row: Row, reference: Reference): Promise<void> {
    const { report, composition, place } = row
    report.status = 'running'
    this.meter?.start(report.name, place)
    try {
      const prepared = place === 0 ? {} : await this.prepared(composition)
      const ran = { ...composition, artifacts: prepared.artifacts ?? composition.artifacts ?? [] }
      report.artifacts = ran.artifacts.map(({ stage, fingerprint }) => ({ stage, fingerprint }))
      const model = prepared.model ?? this.options.model
      try {
        const measures = await this.measures(ran, model, reference, place === 0)
        report.result = resultOf(measures, await this.passkeys(ran, model))
        report.notes = notesOn(composition.compressor, this.options.plan, measures)
        report.status = 'done'
        this.meter?.finish()
        await this.timeLater({ report, composition: ran, model, bytes: measures.footprintAtEnd.ledger.peak }, place)
      } finally {
        prepared.dispose?.()
      }
    } catch (error) {
      if (error instanceof InterruptedError || this.options.signal?.aborted) {
        report.status = 'interrupted'
        await this.options.onRow?.(report)
        return
      }
      await this.failed(row, error)
      this.meter?.finish()
    }
    await this.flush()
    await this.options.onRow?.(report)
  }

  /** @throws the error again when it was the uncompressed run's: nothing can be compared then. */
  private async failed({ report, place }: Row, error: unknown): Promise<void> {
    report.status = 'failed'
    report.error = describeError(error)
    if (place > 0) return
    this.report.status = 'failed'
    this.report.finishedAt = new Date().toISOString()
    await this.flush()
    throw error
  }

  private async prepared(composition: Composition): Promise<PreparedRow> {
    return (await this.options.prepare?.(composition, (activity) => this.meter?.busy(activity))) ?? {}
  }

  private measures(
    { compressor, artifacts = [] }: Composition,
    model: ScoringModel,
    reference: Reference,
    fill: boolean,
  ): Promise<Measures> {
    const { ids, plan, signal } = this.options
    return measure({
      model,
      original: this.options.model.shape,
      compressor,
      artifacts,
      ids,
      plan,
      reference,
      fill,
      onTokens: (tokens) => this.meter?.at(tokens),
      ...(signal ? { signal } : {}),
    })
  }

  private async passkeys(
    { compressor, artifacts = [] }: Composition,
    model: ScoringModel,
  ): Promise<PasskeyResult | null> {
    const { plan, passkeyTrials = [], signal } = this.options
    if (passkeyTrials.length === 0) return null
    return passkey({
      model,
      compressor,
      artifacts,
      trials: passkeyTrials,
      onTokens: (tokens) => this.meter?.at(plan.tokens + tokens),
      ...(signal ? { signal } : {}),
    })
  }

  /** Remembers a measured row for the end; a row on a model of its own is timed now, while that model is loaded. */
  private async timeLater(row: TimingCandidate, place: number): Promise<void> {
    if (place === 0) this.baseline = row
    else if (row.model === this.options.model) this.toTime.push(row)
    else await this.takeTimes([row])
  }

  /** Times rows beside the uncompressed one; every group of rows is in the file at once. */
  private async takeTimes(rows: readonly TimingCandidate[]): Promise<void> {
    const { times, meter, baseline, report } = this
    if (!times || !baseline || this.options.signal?.aborted) return
    meter?.startTiming(rows.length + 1)
    await times.take(baseline, rows, async () => {
      if (report.protocol.timing) report.protocol.timing.groups = times.groups
      await this.flush()
    })
  }

  private async flush(): Promise<void> {
    if (this.options.file) await writeReport(this.options.file, this.report)
  }
}

/** What was measured, not timed yet. */
function resultOf(measures: Measures, trials: PasskeyResult | null): ResultReport {
  return {
    quality: { ...measures.quality, attentionError: [...measures.quality.attentionError] },
    passkey: trials,
    footprint: measures.footprint,
    footprintAtEnd: measures.footprintAtEnd,
    bytesOverTokens: [...measures.bytesOverTokens],
    times: NOT_TIMED,
    overhead: { prefill: null, decode: null },
    longestStep: measures.longestStep,
  }
}

/** An error as a report keeps it. */
export function describeError(error: unknown): NonNullable<CompositionReport['error']> {
  if (!(error instanceof Error)) return { name: 'Error', code: null, message: String(error) }
  const code = 'code' in error && typeof error.code === 'string' ? error.code : null
  return { name: error.name, code, message: error.message }
}
