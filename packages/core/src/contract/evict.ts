/** Stages that decide which rows stay: scorers, budgets, picks. */
import type { Tensor } from '@tensorflow/tfjs-core'
import type { Needs, Observed } from './observation'
import type { ReplayContext, ReplayPass } from './replay'
import type { Json, Phase, Tensors } from './values'

/**
 * Rows that a method promises to keep whatever scores, counts and budgets say: the `first` (sinks) and the `last` (the newest) that each
 * KV head holds. A count that is smaller is raised to them. Every head keeps at least one row, promised or not.
 */
export interface Protected {
  /** Default 0. */
  readonly first?: number
  /** Default 0. */
  readonly last?: number
}

/** Gives every token a number in every KV head, the larger the better, and says how many tokens stay when no budget stage does. */
export interface Scorer<N extends Needs = Needs> {
  readonly needs: N
  /** Rows that stay: core lifts their scores above all others. Default none. */
  readonly protect?: Protected
  /**
   * Passes that the model makes over the context before anything is dropped; `{ of: 'replay' }` shows what they attended to. Only a
   * scorer that acts at the end of the prompt or every so many tokens may ask for them: the sequence waits until they are done. Default none.
   */
  replay?(context: ReplayContext): readonly ReplayPass[]
  /**
   * Names of numbers that the scorer remembers per token and KV head. New rows begin with 0; core keeps the columns in step with the rows,
   * counts and saves them.
   */
  readonly columns?: readonly string[]
  /**
   * How many of `tokens` stored rows stay, of a sequence that has `seen` tokens, dropped ones included; nothing is dropped when it returns
   * `tokens`. Core keeps at least the protected rows, and one.
   */
  count(tokens: number, seen: number): number
  /**
   * Returns scores `[kvHeads, tokens]`, or `[1, tokens]` for one set of tokens per layer, and beside them the columns' new values
   * `[kvHeads, tokens]`.
   */
  score(
    seen: Observed<N>,
    columns: Tensors,
    now: ScoreContext,
  ): Tensor | { readonly scores: Tensor; readonly columns: Tensors }
}

/** Where in the sequence a scorer acts. A cache may take a second prompt, which does not begin at position 0. */
export interface ScoreContext {
  readonly phase: Phase
  /** Tokens seen so far, this step's included. */
  readonly tokensSeen: number
}

/**
 * Says how many tokens each KV head of a layer keeps. One whose counts may differ has `ragged: true`, for lanes are laid out when a cache
 * is opened.
 */
export interface BudgetStage {
  readonly ragged: boolean
  /** What one budget is shared out over: the heads of a layer (default), or all heads of all layers, decided in `commit()`. */
  readonly over?: 'layer' | 'model'
  /**
   * Returns how many rows each head keeps. `scores[h]` is `[1, tokens]` of KV head h, with protected rows at infinity and dropped ones at
   * -infinity; heads may hold different numbers of rows. `uniform` is what the scorer would keep per head: the mean, rounded down, where
   * heads differ. Core raises a count to the head's `floor` and lowers it to the rows that it holds.
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
  /** Tokens that the sequence has, dropped ones included. */
  readonly seen: number
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

/** Chooses which tokens stay. Behind a scorer without a pick, core keeps the tokens with the largest scores, the older one of two that tie. */
export interface Picker<N extends Needs = Needs> {
  readonly needs: N
  /**
   * Rows that stay, among others that `keep` chooses. With `when: 'room'` the promise covers the new rows too, and `count` has to leave
   * room for it. Default none.
   */
  readonly protect?: Protected
  /**
   * How many of `tokens` rows stay. Core keeps at least the protected ones, and one; with `when: 'room'` it takes the count as it is: how many
   * rows stay before `incoming` new ones are appended.
   */
  count(tokens: number, incoming: number): number
  /** The most tokens that one append may bring: a recent window, for example, cannot take in more tokens than it holds. Default any number. */
  readonly chunkLimit?: number
  /** Whether positions never change (`original`), or rows are numbered anew without gaps after a drop (`slot`, StreamingLLM). */
  readonly positions: 'original' | 'slot'
  /**
   * Returns the ranges of rows that stay, the same for all heads, or a mask `[kvHeads, tokens]` (`[1, tokens]` where heads share their
   * tokens) with exactly `count` ones per head. A pick that reads numbers back returns a promise; with `when: 'room'` it cannot.
   * @param scores as `BudgetStage.counts` gets them, `[kvHeads, tokens]` or `[1, tokens]`; null without a scorer
   */
  keep(
    tokens: number,
    count: number,
    scores: Tensor | null,
    seen: Observed<N>,
    now: PickContext,
  ): readonly RowRange[] | Tensor | Promise<Tensor>
  /**
   * Whether each KV head keeps a number of rows of its own. How many a head keeps is then said by the ones in the mask that `keep` returns;
   * `count` decides nothing, and `keep` is called whenever the stage acts.
   */
  readonly ragged?: boolean
}

/** Where in the sequence a pick acts. */
export interface PickContext extends ScoreContext {
  /** First KV head of the lane that it picks in; a ragged layer has a lane per head. */
  readonly head: number
  /** What the pick wants to remember about this lane. Assign to it; the cache stores it, saves it and copies it into forks. */
  memory: Json
}
