/** What a comparison of rows is asked for: its rows, what each runs with, and the options of compareRows(). */
import type { Artifact, KVCompressor } from '@kvloom/core'
import type { CompositionReport } from '../report/schema'
import type { PasskeyTrial } from './passkey'
import type { Plan } from './plan'
import type { Activity, Progress } from './progress'
import type { ScoringModel } from './scoring-model'

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
