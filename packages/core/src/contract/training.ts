/** How the weights that a `model` stage makes are trained afterwards: data, which a trainer follows that knows no method. */

/** What a phase of training brings down. */
export type TrainingLoss =
  /** Each layer by itself: hidden states of the original model go in, and its hidden states after the attention of that layer are wanted. */
  | 'attention'
  /** The same, compared behind the layer's MLP. */
  | 'layer'
  /** The whole model: KL(original || trained) of the next token. */
  | 'teacher'
  /** The whole model: the negative log-likelihood of the next token. */
  | 'next-token'

/** One phase of training; its optimizer begins anew. */
export interface TrainingPhase {
  /** In reports: `layer-wise`. */
  readonly name: string
  readonly loss: TrainingLoss
  /**
   * What is trained, the rest is frozen: parts of every layer by their canonical names without `layers.N.` (`attention.query`, `mlpNorm`),
   * and `finalNorm`. A bias goes with its matrix; parts that a model lacks are passed over.
   */
  readonly weights: readonly string[]
  /** Share of all tokens; the shares of all phases add up to 1. */
  readonly share: number
  /** Of AdamW at its highest; it falls along half a cosine. */
  readonly learningRate: number
  /** With the losses of single layers: how often a piece of text is used while its hidden states are at hand. Default 1. */
  readonly passes?: number
}

/** How a stage's weights are trained. */
export interface Training {
  /** In their order. */
  readonly phases: readonly TrainingPhase[]
}
