/** What a stage knows of the rows it gets (space), and where it is bound (site). */
import type { Tensor } from '@tensorflow/tfjs-core'
import type { ModelShape } from './model'
import type { HostTensor, Part } from './values'

/**
 * What a stage may rely on about the rows `[heads, tokens, dim]` of one part that it receives. Each stage turns the space before it into
 * the next.
 */
export interface Space {
  readonly part: Part
  /**
   * `each`: every KV head has its own row of a token. `all`: the heads of a token are merged into one row `[1, tokens, heads * dim]`, or
   * one latent.
   */
  readonly heads: 'each' | 'all'
  /** How many channels a row has; null where the model or a fit decides that. */
  readonly dim: number | null
  /**
   * On which side of RoPE a layer stores its keys. The first stage that works on keys before rotation (`pre`) or after it (`post`)
   * decides that for the whole layer. `free` means that no stage has decided yet; if none does, keys are stored after RoPE.
   * `none` is for values, which nothing rotates.
   */
  readonly rope: 'free' | 'pre' | 'post' | 'none'
  /** True for latents and residuals: later stages take them as they are, on whichever side of RoPE they were made. */
  readonly latent: boolean
  /** How many layers are compressed together; 1 when each stands alone. */
  readonly layerGroup: number
  /** Who keeps the same tokens: each head has a set of its own (`head`), all heads of a layer share one (`layer`), or all layers do (`model`). */
  readonly tokenSets: 'head' | 'layer' | 'model'
  /** Whether tokens are dropped: never, once at the end of the prompt, or also later. */
  readonly drops: 'never' | 'promptEnd' | 'always'
  /** True once rows stand for no single token any more, as after a resampling (FreqKV). */
  readonly slots: boolean
  /** Whether a row can be decoded without others. It cannot where it was predicted from another layer, or shares a group with other rows. */
  readonly randomAccess: boolean
}

/** Where a stage is bound: one layer, one part of a known model. */
export interface Site {
  readonly layer: number
  readonly part: Part
  readonly model: ModelShape
  /** Which KV head of the model the first head of the rows is. It is not 0 in a ragged layer, which binds each head alone. */
  readonly firstHead: number
  /** Heads and dim of the rows that this stage receives, after earlier stages. */
  readonly heads: number
  readonly dim: number
  /**
   * Gives the table as a tensor, which the stage borrows and must not dispose. The cache owns it, uploads it once per `values` array,
   * counts it as `perModel` and frees it.
   */
  hold(table: HostTensor): Tensor
}
