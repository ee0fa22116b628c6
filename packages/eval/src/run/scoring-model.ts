/** What the evaluation needs of a model; the engine's `Model` is one. */
import type { KVCache, ModelShape, Phase } from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'

export type ScoredLogits = 'last' | 'none' | { readonly visit: (from: number, logits: Tensor) => void | Promise<void> }

export interface ScoringModel {
  readonly shape: ModelShape
  readonly config: { readonly vocabSize: number }
  /** `ids` through all layers into the cache; logits as the engine's `forward` gives them. */
  forward(
    cache: KVCache,
    ids: Int32Array,
    phase: Phase,
    options?: { readonly logits?: ScoredLogits },
  ): Promise<Tensor | null>
}
