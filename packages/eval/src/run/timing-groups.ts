/**
 * Rows are timed in groups whose caches fit into memory together; the uncompressed row is timed again with each group. A row on a
 * model of its own is a group alone, timed while that model is loaded: a second model is larger than any cache.
 */

import type { CompositionReport } from '../report/schema'
import type { CompareRowsOptions, Composition } from './options'
import type { ScoringModel } from './scoring-model'
import { type RowSamples, summarizeTimes, type TimingPlan, timeRows, timingTokens } from './timing'

/** A row that was measured and can be timed. */
export interface TimingCandidate {
  readonly report: CompositionReport
  readonly composition: Composition
  readonly model: ScoringModel
  /** The most bytes its cache held when it was measured. */
  readonly bytes: number
}

/** Bytes of caches that are open at the same time, when nobody says. */
const DEFAULT_BYTES = 2 ** 30

/** Cuts rows into groups, in their order, each within `bytes` together with the uncompressed row. A row larger than that is a group alone. */
export function groupsOf(
  baseline: Pick<TimingCandidate, 'bytes'>,
  rows: readonly TimingCandidate[],
  bytes: number,
): readonly (readonly TimingCandidate[])[] {
  const groups: TimingCandidate[][] = []
  let held = 0
  for (const row of rows) {
    const group = groups.at(-1)
    if (group && held + row.bytes <= bytes) {
      group.push(row)
      held += row.bytes
    } else {
      groups.push([row])
      held = baseline.bytes + row.bytes
    }
  }
  return groups
}

export class RowTimes {
  private fed = 0
  /** Of the uncompressed row, by group. */
  private readonly base: RowSamples[] = []

  /** @param onTokens called with the tokens that timing fed so far, all rows together. */
  constructor(
    private readonly options: CompareRowsOptions,
    private readonly plan: TimingPlan,
    private readonly onTokens: (tokens: number) => void,
  ) {}

  /** Groups timed so far. */
  get groups(): number {
    return this.base.length
  }

  /** Times rows in as many groups as they need; what a group gave is in its rows before `onGroup` is called. */
  async take(
    baseline: TimingCandidate,
    rows: readonly TimingCandidate[],
    onGroup: () => void | Promise<void>,
  ): Promise<void> {
    for (const group of groupsOf(baseline, rows, this.options.timingBytes ?? DEFAULT_BYTES)) {
      if (this.options.signal?.aborted) return
      await this.takeGroup(baseline, group)
      await onGroup()
    }
  }

  private async takeGroup(baseline: TimingCandidate, group: readonly TimingCandidate[]): Promise<void> {
    const { ids, signal } = this.options
    const before = this.fed
    const all = [baseline, ...group]
    const [first, ...others] = await timeRows(
      all.map(({ composition: { compressor, artifacts = [] }, model }) => ({ compressor, artifacts, model })),
      {
        ids,
        plan: this.plan,
        onTokens: (tokens) => {
          this.fed = before + tokens
          this.onTokens(this.fed)
        },
        ...(signal ? { signal } : {}),
      },
    )
    this.fed = before + all.length * timingTokens(this.plan)
    if (!first) return
    this.base.push(first)
    write(baseline.report, this.base, this.base)
    for (const [i, row] of group.entries()) write(row.report, others.slice(i, i + 1), [first])
  }
}

/** Puts times into a row; one that could not be timed keeps everything else. */
function write(report: CompositionReport, own: readonly RowSamples[], base: readonly RowSamples[]): void {
  const { result } = report
  if (!result) return
  result.times = summarizeTimes(own, base)
  const { prefill, decode } = result.times.ratios
  result.overhead = { prefill: prefill ? prefill.median - 1 : null, decode: decode ? decode.median - 1 : null }
  const failed = own.find((s) => s.error !== null)
  if (failed && !report.notes.some((note) => note.startsWith(NOT_TIMED_NOTE)))
    report.notes.push(
      `${NOT_TIMED_NOTE}: ${failed.error instanceof Error ? failed.error.message : String(failed.error)}`,
    )
}

const NOT_TIMED_NOTE = 'Its times could not be taken to the end'
