import type { KVCompressor, Rope, Site } from '@kvloom/core'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { TensorResult } from '../compare'
import type { GoldenCase } from '../schema'
import type { ClusterkvSteps } from './clusterkv'
import type { CoupledLloyd } from './cq'
import type { FastgenSteps } from './fastgen'
import type { HiggsWithTable } from './higgs-codes'
import type { SharingSteps } from './kvsharer'

/** A method's factory, whatever its options: adapters fill them from the case. */
export type CreateMethod = {
  create(options: Readonly<Record<string, unknown>>): KVCompressor
}['create']

/** The methods under test. A case whose method is missing here is unknown. */
export interface GoldenMethods {
  readonly adaKv?: CreateMethod
  readonly clusterkvSteps?: ClusterkvSteps
  readonly coupledQuantization?: CreateMethod
  readonly coupledLloyd?: CoupledLloyd
  readonly fastgenSteps?: FastgenSteps
  readonly blockFormats?: CreateMethod
  readonly expectedAttention?: CreateMethod
  /** Expected Attention's Gaussian of the queries `[queryHeads, n, dim]` to come. */
  readonly futureQueries?: (
    queries: Tensor,
    rope: Rope | null,
    options: { readonly sinks: number; readonly future: number; readonly covariance: boolean },
  ) => { readonly mean: Tensor; readonly covariance: Tensor | null }
  readonly freqkv?: CreateMethod
  /** FreqKV's filter of `[heads, from, dim]` into `[heads, to, dim]`, given where its table is held. */
  readonly lowPass?: (from: number, to: number) => (hold: Site['hold']) => (rows: Tensor) => Tensor
  readonly kivi?: CreateMethod
  readonly higgs?: CreateMethod
  /** HIGGS with any table: the cases bring the authors' grids. */
  readonly higgsQuantizer?: HiggsWithTable
  readonly linearPredictor?: CreateMethod
  readonly aquaKv?: CreateMethod
  readonly kvLatent?: CreateMethod
  /** The steps of KVSharer's search. */
  readonly kvsharer?: SharingSteps
  readonly l2Norm?: CreateMethod
  readonly minicache?: CreateMethod
  /** MiniCache's angle in radians `[heads, n]` between the rows of two layers `[heads, n, dim]`. */
  readonly angleBetween?: (a: Tensor, b: Tensor) => Tensor
  readonly lorc?: CreateMethod
  /** LoRC's layer ranks from the logarithms of condition numbers, between the first layer's and the last one's. */
  readonly progressiveRanks?: LayerRanks
  readonly think?: CreateMethod
  /** ThinK's score of each key channel `[kvHeads, dim]`, from queries `[queryHeads, window, dim]` and keys `[kvHeads, tokens, dim]`. */
  readonly channelScores?: (queries: Tensor, keys: Tensor) => Tensor
  readonly snapkv?: CreateMethod
  readonly streamingLlm?: CreateMethod
  readonly tova?: CreateMethod
  /** The L2-norm paper's diagnostic: attention `[queryHeads, tokens]`, norms `[kvHeads, tokens]` to `[queryHeads]`. */
  readonly attentionLoss?: (attention: Tensor, norms: Tensor) => Tensor
}

/** Sums from each layer to the last, ranks before rounding, and ranks. */
export type LayerRanks = (
  logConditions: Readonly<Record<'keys' | 'values', ArrayLike<number>>>,
  range: { readonly max: number; readonly min: number },
) => { readonly logCumulative: Float64Array; readonly real: Float64Array; readonly ranks: Int32Array }

export interface Outcome {
  readonly tensors: readonly TensorResult[]
  /** What a reader of the report should know besides. */
  readonly message?: string
}

/** Runs a case through a method; null when the case is of a method or variant that it does not know. */
export type Adapter = (golden: GoldenCase, methods: GoldenMethods) => Promise<Outcome | null>
