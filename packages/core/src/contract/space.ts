/** What flows between stages, and where a stage is bound. */
import type { Tensor } from '@tensorflow/tfjs-core'
import type { ModelShape } from './model'
import type { HostTensor, Part } from './values'

/** What flows between stages, per part: rows of shape `[heads, tokens, dim]`. */
export interface Space {
  readonly part: Part
  /** `each`: a row per KV head. `all`: the heads of a token are merged into one row `[1, tokens, heads * dim]`, or one latent. */
  readonly heads: 'each' | 'all'
  /** null while it is the model's own dim; a number once a stage changed it. */
  readonly dim: number | null
  /**
   * `free`: keys that no stage has claimed a side for (stored after RoPE then). `pre` / `post`: a stage works on keys before / after
   * rotation, so the whole layer stores them there. `none`: values, which nothing rotates.
   */
  readonly rope: 'free' | 'pre' | 'post' | 'none'
  /** True for latents and residuals: later stages take them as they are, on whichever side of RoPE they were made. */
  readonly latent: boolean
  /** Size of a layer group that is compressed together. */
  readonly layerGroup: number
  /** Over what the kept tokens are identical: per head, per layer, or over the whole model. */
  readonly tokenSets: 'head' | 'layer' | 'model'
  /** Whether tokens are dropped: never, once at the end of the prompt, or also later. */
  readonly drops: 'never' | 'promptEnd' | 'always'
  /** True after FreqKV: rows are not tokens any more. */
  readonly slots: boolean
  /** One row decodes alone: not AQUA-KV chains, not groups of rows. */
  readonly randomAccess: boolean
}

/** Where a stage is bound: one layer, one part of a known model. */
export interface Site {
  readonly layer: number
  readonly part: Part
  readonly model: ModelShape
  /** KV head of the model that the first row head belongs to: a ragged layer binds each head on its own. */
  readonly firstHead: number
  /** Heads and dim of the rows this stage receives (after earlier stages). */
  readonly heads: number
  readonly dim: number
  /**
   * The table as a tensor that the cache owns: uploaded once per `values` array, counted as perModel, freed with the cache.
   * Borrowed by the stage, which must not dispose it.
   */
  hold(table: HostTensor): Tensor
}
