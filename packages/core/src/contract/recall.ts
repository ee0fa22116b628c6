/** The stage that chooses what a query reads. */
import type { Tensor } from '@tensorflow/tfjs-core'
import type { Phase, Tensors } from './values'

/** Chooses which stored rows a query reads, by an index over keys (decoded, after RoPE) that is built in blocks and only appended to. */
export interface Recall {
  /**
   * Where indexed rows lie. On the `device`, those that are not selected are skipped; in `host` memory, the selected ones are fetched at
   * each step.
   */
  readonly tier: 'device' | 'host'
  /** How many first rows are always read and never indexed. */
  readonly sinks: number
  /** How many rows are indexed together after the prompt. New rows are always read until so many of them wait. */
  readonly every: number
  /** How many rows a query reads, sinks included. Recent rows that are not indexed yet come on top. */
  readonly budget: number
  /**
   * Makes the index of a block of keys f32 `[kvHeads, n, keyDim]`. It runs once per block and may read back; the cache takes over what it
   * returns.
   */
  index(keys: Tensor, block: { readonly number: number; readonly phase: Phase }): Promise<Tensors>
  /**
   * Returns which indexed rows to read for one query per head `[queryHeads, keyDim]` (after RoPE): int32 `[queryHeads, count]`, ascending,
   * numbered through all blocks, of which block i has `sizes[i]` rows.
   */
  select(queries: Tensor, blocks: readonly Tensors[], sizes: readonly number[], count: number): Promise<Tensor>
}
