/** The stage that chooses what a query reads. */
import type { Tensor } from '@tensorflow/tfjs-core'
import type { Phase, Tensors } from './values'

/** Which stored rows a query reads. An index over keys as they are stored (after RoPE), built in blocks and only appended to. */
export interface Recall {
  /** `device`: rows that are not selected are skipped. `host`: indexed rows leave the device, the selected ones are fetched at each step. */
  readonly tier: 'device' | 'host'
  /** First rows, always read and never indexed. */
  readonly sinks: number
  /** Rows indexed together after the prompt; until as many wait, new rows are always read. */
  readonly every: number
  /** Rows a query reads of the prompt and what follows it, sinks included (recent, not yet indexed rows come on top). */
  readonly budget: number
  /** Index of keys f32 `[kvHeads, n, keyDim]`; runs once per block, may read back. Owns what it returns; the cache frees it. */
  index(keys: Tensor, block: { readonly number: number; readonly phase: Phase }): Promise<Tensors>
  /**
   * For one query per head `[queryHeads, keyDim]` after RoPE: which of the indexed rows to read, `count` per query head, int32
   * `[queryHeads, count]` ascending, numbered through all blocks (`sizes[i]` rows in block i).
   */
  select(queries: Tensor, blocks: readonly Tensors[], sizes: readonly number[], count: number): Promise<Tensor>
}
