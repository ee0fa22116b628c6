import type { KVCompressor } from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { TensorResult } from '../compare'
import type { GoldenCase } from '../schema'

/** A method's factory, whatever its options: adapters fill them from the case. */
export type CreateMethod = {
  create(options: Readonly<Record<string, unknown>>): KVCompressor
}['create']

/** The methods under test. A case whose method is missing here is unknown. */
export interface GoldenMethods {
  readonly kivi?: CreateMethod
  readonly l2Norm?: CreateMethod
  readonly snapkv?: CreateMethod
  readonly streamingLlm?: CreateMethod
  readonly tova?: CreateMethod
  /** The L2-norm paper's diagnostic: attention `[queryHeads, tokens]`, norms `[kvHeads, tokens]` to `[queryHeads]`. */
  readonly attentionLoss?: (attention: Tensor, norms: Tensor) => Tensor
}

export interface Outcome {
  readonly tensors: readonly TensorResult[]
  /** What a reader of the report should know besides. */
  readonly message?: string
}

/** Runs a case through a method; null when the case is of a method or variant that it does not know. */
export type Adapter = (golden: GoldenCase, methods: GoldenMethods) => Promise<Outcome | null>
