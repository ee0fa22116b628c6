/** One sequence’s cache. */
import type { AffineLayout, CodebookLayout, RowStore } from '@kvloom/kernels'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { KVCompressor } from './compressor'
import type { ByteLedger, LayerCensus } from './ledger'
import type { ModelShape } from './model'
import type { ReplayPass, ReplayTexts } from './replay'
import type { Phase, Tensors } from './values'

/** One sequence's cache. */
export interface KVCache {
  readonly model: ModelShape
  readonly compressor: KVCompressor
  /** The most tokens one `begin` may announce now; it may change with every step. */
  readonly chunkLimit: number
  /**
   * How many tokens the sequence may still grow by before the model's context is full. It is Infinity where rows are numbered anew after
   * drops and those that stay fit the context.
   */
  readonly contextLeft: number
  /** What to do where the context is full, as `ContextOverflow` says it; absent where nothing better is known than its default. */
  readonly contextCure?: string | undefined
  /** How many of `tokens` the next `begin` takes, as the chunk limit and the model's context allow; 0 when the context is full. */
  canTake(tokens: number): number
  /** How many tokens were seen so far, dropped ones included. It is the original position of the next token. */
  readonly tokensSeen: number
  /**
   * Announces the tokens of a step. Room for them (stages with `when: 'room'`) is made when the first layer has been handed good numbers, so
   * that a step that is refused before changes nothing.
   * @throws ContextOverflow, CacheStateError
   */
  begin(tokens: Int32Array, phase: Phase): void
  /**
   * Takes one layer through the step: rotates, attends to the compressed past and to the step's own rows, appends them, observes, evicts
   * and seals. Queries `[queryHeads, n, keyDim]` and keys `[kvHeads, n, keyDim]` come BEFORE RoPE, values are `[kvHeads, n, valueDim]`; all
   * three stay the caller's. Only one call may run at a time.
   * @returns f32 `[queryHeads, n, valueDim]`, owned by the caller
   * @throws NonFiniteError, CacheStateError
   */
  attend(layer: number, now: { queries: Tensor; keys?: Tensor; values?: Tensor; hidden?: Tensor }): Promise<Tensor>
  /**
   * Whether a stage of a layer looks at hidden states. Then `attend` wants `hidden` `[n, hidden]`: what the layer's projections were given. A
   * cache without this method wants none.
   */
  wantsHidden?(layer: number): boolean
  /** The layer whose rows `layer` reads. It is `layer` itself unless layers are shared; where they are, `attend` gets no keys and values. */
  sourceLayer(layer: number): number
  /** Attends with queries (before RoPE, at positions `tokensSeen - n` to `tokensSeen`) to what is stored. Nothing is appended. */
  read(layer: number, queries: Tensor): Promise<Tensor>
  /**
   * What the model has to read again before this cache goes on; null unless a stage that acts at the last step asks for it. Until
   * `finish()` nothing is dropped or sealed, and no step begins. `forward()` of `@kvloom/engine` does it.
   */
  readonly replay?: PendingReplay | null
  /**
   * Ends the step once every layer has attended: drops and seals what is decided over the whole model, and frees blocks whose rows are all
   * dropped.
   */
  commit(): Promise<void>
  /** A second cache that goes on from here on its own. Full pages are shared and counted; a page that is being filled is copied. */
  fork(): KVCache
  /**
   * Forgets the newest `tokens` tokens, as if they had never come. It can go back to the last step in which a stage sealed, dropped or
   * looked at rows.
   * @throws CacheStateError beyond that step, with the advice to take a `fork()`
   */
  rollback(tokens: number): void
  bytes(): ByteLedger
  /** How many rows a layer holds, by zone. */
  census(layer: number): LayerCensus
  /**
   * Decodes every row of one lane, in the order of storage: `[lane heads, rows, dim]`, owned by the caller. Keys come after RoPE at their
   * original positions, on whichever side they are stored. `positions[h]` has the original position of every row of a head, and -1
   * for a dropped row that its block still holds. A layer has one lane, or one per KV head when it is ragged. Inside a step these are the
   * rows that the step attends to, also before the first layer makes room for it.
   */
  materialize(layer: number, lane?: number): Promise<{ keys: Tensor; values: Tensor; positions: Int32Array[] }>
  /** The stored tensors as they are, borrowed, with one entry per lane. */
  segments(layer: number): readonly LaneView[]
  serialize(): AsyncIterable<Uint8Array>
  dispose(): void
}

/** A cache that waits until the model has read its context again. */
export interface PendingReplay {
  /** What is to be read, in order, for all layers alike. */
  passes(texts: ReplayTexts): readonly ReplayPass[]
  /**
   * A copy of the cache that the tokens of a pass are run through, in as many steps of phase `prompt` as it takes; it measures what they
   * attend to, and the caller disposes it.
   */
  open(pass: ReplayPass): KVCache
  /** Ends the step that waits: scores, drops and seals. */
  finish(): Promise<void>
}

export interface SegmentView {
  readonly zone: 'sink' | 'sealed' | 'window'
  /** The tensors of the rows, by the names of the quantizer's fields; `rows` where nothing packs them, and none where they lie in host memory. */
  readonly block: Tensors
  /** Every tensor that the page of these rows takes: its block, scales of a transform, rows that are exempt from it. */
  readonly tensors: readonly Tensor[]
  readonly from: number
  readonly rows: number
  readonly capacity: number
  readonly layout:
    | AffineLayout
    | CodebookLayout
    | { readonly kind: 'custom' }
    | { readonly kind: 'dense'; readonly store: RowStore }
}

export interface LaneView {
  readonly heads: readonly number[]
  readonly keys: readonly SegmentView[]
  readonly values: readonly SegmentView[]
}
