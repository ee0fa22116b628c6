/** What a run of training leaves to read: numbers against tokens trained. */
import type { TrainingLoss } from '@kvloom/core'

/** One step of the optimizer. */
export interface CurvePoint {
  /** Number of its phase, from 0. */
  readonly phase: number
  /** Tokens that all steps up to and with this one were made of; a token that was used again counts again. */
  readonly tokens: number
  /** Of a layer-wise phase: Eq. 7 of KV-Latent, the mean over layers and tokens of ||apart||₂ / hidden size; else nats per token. */
  readonly loss: number
}

/** The trained model on held-out text. */
export interface PerplexityPoint {
  readonly phase: number
  readonly tokens: number
  readonly perplexity: number
}

/** Everything about one run. */
export interface TrainingRecord {
  readonly schemaVersion: 1
  /** The composition's stages as they were trained. */
  readonly stages: readonly { readonly id: string; readonly options: unknown }[]
  readonly model: { readonly name: string; readonly fingerprint: string }
  /** Fingerprint of the trained model. */
  readonly trained: string
  readonly settings: {
    readonly tokens: number
    readonly sequence: number
    readonly batch: number
    readonly seed: number
    readonly learningRate: number
  }
  readonly phases: readonly {
    readonly name: string
    readonly loss: TrainingLoss
    readonly steps: number
    readonly learningRate: number
    readonly passes: number
    readonly weights: readonly string[]
  }[]
  /** Of `settings.tokens`; fewer where a run was ended before. */
  readonly tokensTrained: number
  /** Sequences of the text that is trained on, and of the held-out text. */
  readonly sequences: number
  readonly heldOut: number
  readonly trainedWeights: number
  /** Perplexity on the held-out text of the original model, and of the changed one before any training. */
  readonly dense: number
  readonly untrained: number
  readonly perplexities: readonly PerplexityPoint[]
  readonly curve: readonly CurvePoint[]
  /** Seconds of steps and of measuring, over all runs that a resumed one went on with. */
  readonly seconds: { readonly training: number; readonly measuring: number }
}

/** Share of what the change lost in perplexity that training brought back, 1 for all of it. */
export function recovered({ dense, untrained, perplexities }: TrainingRecord): number {
  const last = perplexities.at(-1)?.perplexity ?? untrained
  return (untrained - last) / (untrained - dense)
}
