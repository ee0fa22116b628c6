/** One sequence’s cache. */
import type { AffineLayout, CodebookLayout, RowStore } from '@kvloom/kernels'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { KVCompressor } from './compressor'
import type { ByteLedger, LayerCensus } from './ledger'
import type { ModelShape } from './model'
import type { Phase, Tensors } from './values'

/** One sequence's cache. */
export interface KVCache {
  readonly model: ModelShape
  readonly compressor: KVCompressor
  /** The most tokens one `begin` may announce now; it may change with every step. */
  readonly chunkLimit: number
  /** Tokens that the sequence may still grow by before the model's context is full; Infinity where rows are numbered anew. */
  readonly contextLeft: number
  /** How many of `tokens` the next `begin` takes: what its chunk limit and the model's context allow, 0 when the context is full. */
  canTake(tokens: number): number
  /** Tokens seen so far, dropped ones included; the next token's original position. */
  readonly tokensSeen: number
  /** Announces the next tokens and makes room (stages with `when: 'room'`). Throws ContextOverflow, CacheStateError. */
  begin(tokens: Int32Array, phase: Phase): void
  /**
   * Queries `[queryHeads, n, keyDim]` and keys `[kvHeads, n, keyDim]` BEFORE RoPE, values `[kvHeads, n, valueDim]`.
   * Rotates, attends to the compressed past and to this chunk exactly, appends, observes, evicts and seals.
   * Returns f32 `[queryHeads, n, valueDim]`, owned by the caller. Inputs stay the caller's. One call at a time. Throws NonFiniteError,
   * CacheStateError.
   */
  attend(layer: number, now: { queries: Tensor; keys?: Tensor; values?: Tensor }): Promise<Tensor>
  /** The layer whose rows a layer reads; itself unless layers are shared (then keys and values are not handed over). */
  sourceLayer(layer: number): number
  /** Attention of queries (before RoPE, at positions `tokensSeen - n ...`) over what is stored; nothing is appended. */
  read(layer: number, queries: Tensor): Promise<Tensor>
  /** Ends the step: finishes what spans layers and frees blocks whose rows are all dropped. */
  commit(): Promise<void>
  /** An independent continuation; full pages are shared by count. */
  fork(): KVCache
  /**
   * Forgets the newest `tokens` tokens, as if they had never come. Possible back to the last step in which a stage sealed, dropped or
   * looked at rows. Throws CacheStateError beyond it, which names `fork()`.
   */
  rollback(tokens: number): void
  bytes(): ByteLedger
  /** What is held, by zone; for tests, tools and theoretical bits. */
  census(layer: number): LayerCensus
  /**
   * Reconstructed rows of one lane in storage order, `[lane heads, rows, dim]`; keys as stored (after RoPE). Owned by the caller.
   * `positions[h]` are original positions per head, -1 for a dropped row that its block still holds. A layer has one lane
   * unless its heads are ragged (then one per KV head).
   */
  materialize(layer: number, lane?: number): Promise<{ keys: Tensor; values: Tensor; positions: Int32Array[] }>
  /** The stored segments as they are, borrowed: for tests and golden checks. One entry per lane (set of heads stored together). */
  segments(layer: number): readonly LaneView[]
  serialize(): AsyncIterable<Uint8Array>
  dispose(): void
}

export interface SegmentView {
  readonly zone: 'sink' | 'sealed' | 'window'
  readonly tensors: Tensors
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
