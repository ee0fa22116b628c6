/** Stages that decide which rows stay: scores, budgets, picks. */
import type { Tensor } from '@tensorflow/tfjs-core'
import type { Needs, Observed } from './observation'
import type { Json, Phase, Tensors } from './values'

/**
 * Rows of every KV head that stay whatever scores, counts and budgets say: the `first` (sinks) and the `last` (the newest) of those
 * it holds. Counts are raised to them where they are smaller. A head of any layer keeps at least one row, promised or not.
 */
export interface Protected {
  /** Default 0. */
  readonly first?: number
  /** Default 0. */
  readonly last?: number
}

/** A number per token and KV head, larger = keep, and how many to keep when no budget stage says so. */
export interface Scorer<N extends Needs = Needs> {
  readonly needs: N
  /** Rows that stay; core lifts their scores above all others. Default none. */
  readonly protect?: Protected
  /** Per-token state by name, initial value 0 for new rows; core gathers, counts and serialises it. */
  readonly columns?: readonly string[]
  /** How many of `tokens` stored rows stay; `tokens` itself means nothing is dropped. Core keeps at least the protected rows, and one. */
  count(tokens: number): number
  /** Returns scores `[kvHeads, tokens]` (or `[1, tokens]`: one set for the layer) and the columns' new values `[kvHeads, tokens]`. */
  score(
    seen: Observed<N>,
    columns: Tensors,
    now: ScoreContext,
  ): Tensor | { readonly scores: Tensor; readonly columns: Tensors }
}

/** Where in the sequence a scorer acts: a cache may take a second prompt, which does not begin at position 0. */
export interface ScoreContext {
  readonly phase: Phase
  /** Tokens seen so far, this step's included. */
  readonly tokensSeen: number
}

/** How many tokens each KV head of a layer keeps. Different counts make the layer ragged (`ragged: true`, decided at open). */
export interface BudgetStage {
  readonly ragged: boolean
  /**
   * `scores[h]` is `[1, tokens]` of KV head h, protected rows at infinity, dropped ones at -infinity; heads may hold different numbers
   * of rows. `uniform` is what the scorer would keep per head (the mean, rounded down, where heads differ). Core raises a count to
   * the head's `floor` and lowers it to the rows it holds.
   */
  counts(
    scores: readonly Tensor[],
    uniform: number,
    heads: readonly HeadShare[],
  ): readonly number[] | Promise<readonly number[]>
}

/** What one KV head holds and what the scorer would leave it. */
export interface HeadShare {
  /** Rows it holds. */
  readonly rows: number
  /** Rows that the scorer would keep. */
  readonly uniform: number
  /** Rows that stay in any case: the protected ones, at least one. */
  readonly floor: number
}

/** Half-open range of stored rows `[start, end)`, the same for every KV head. */
export interface RowRange {
  readonly start: number
  readonly end: number
}

/** Which tokens stay. Core's default over a scorer is the stable top-k. */
export interface Pick<N extends Needs = Needs> {
  readonly needs: N
  /** `positions`: the choice needs no scores and is refused beside a scorer. */
  readonly by: 'scores' | 'positions'
  /** Rows that stay, which `keep` chooses among others. With `when: 'room'` it is a promise of `count`, new rows included. Default none. */
  readonly protect?: Protected
  /**
   * How many of `tokens` rows stay; core keeps at least the protected ones, and one. With `when: 'room'`, what stays before
   * `incoming` new rows are appended, as it is.
   */
  count(tokens: number, incoming: number): number
  /** The most tokens one append may bring (a recent window cannot take more than itself). */
  readonly chunkLimit?: number
  /** `'slot'`: rows are re-numbered without gaps after a drop (StreamingLLM); `'original'`: positions never change. */
  readonly positions: 'original' | 'slot'
  /** Row ranges that stay (same for all heads), or a mask `[kvHeads, tokens]` with exactly `count` ones per head. */
  keep(
    tokens: number,
    count: number,
    scores: Tensor | null,
    seen: Observed<N>,
    now: PickContext,
  ): readonly RowRange[] | Tensor
  /** Each KV head keeps its own number of rows: the mask of `keep` counts, not `count`, and `keep` is asked at every turn. */
  readonly ragged?: boolean
}

/** Where in the sequence a pick acts. */
export interface PickContext extends ScoreContext {
  /** First KV head of the lane at hand (a lane per head when ragged). */
  readonly head: number
  /** What the pick wants to remember about this lane; stored with the cache, serialised, copied by a fork. */
  memory: Json
}
