/**
 * The contract: a compressor is data, a list of stages. `compose()` flattens, orders by kind and checks,
 * so a mix is again a compressor. Shapes: keys and values `[kvHeads, tokens, dim]`, queries `[queryHeads, tokens, dim]`.
 */
import type { RowStore } from '@kvloom/kernels'
import type { Artifact, Learned } from './artifact'
import type { BudgetStage, Pick, Scorer } from './evict'
import type { ActsOn, Kind, When } from './kinds'
import type { ModelShape, ModelWeights } from './model'
import type { Recall } from './recall'
import type { Predictor, PredictorSource, Quantizer, Resample, Transform } from './rows'
import type { Site, Space } from './space'
import type { HostTensor, Json, Part } from './values'
import type { Windows } from './window'

/** Identity of a method: what docs, tables and reports print. */
export interface MethodCard {
  /** kebab-case name, as written in a composition: `snapkv(keep=0.5)`. */
  readonly name: string
  readonly title: string
  readonly summary: string
  readonly paper?: { readonly title: string; readonly link: string }
  /** Whether the result is the same however the prompt was cut into chunks. */
  readonly chunkInvariant: boolean
}

/** Every method and every legal mix of methods. Immutable; state lives in the cache it opens. */
export interface KVCompressor {
  readonly card: MethodCard
  readonly stages: readonly AnyStage[]
  /** The exact zones this compressor proposes; `window()` overrides. */
  readonly window?: Windows
  /** How exact rows are stored (sinks, recent window, dense caches), and the latents of a transform without a quantizer. Default f16. */
  readonly store?: RowStore
  /**
   * What a step attends to in place of its own new rows: the originals (`exact`, default), or what is stored of them
   * (`stored`: rows are appended and sealed first). `stored` is how weight and rank methods are meant (protocol W).
   */
  readonly ownRows?: 'exact' | 'stored'
}

export type AnyStage = { [K in Kind]: Stage<K> }[Kind]

export interface Stage<K extends Kind = Kind> {
  readonly kind: K
  /** Names its artifact, its row in the byte ledger, its serialised records. */
  readonly id: string
  readonly options: Json
  readonly when: When
  /** Set by `split({ keys, values })` and `onLayers([2, 29], c)`. */
  readonly on?: ActsOn
  /** What it hands on; throws IncompatibleStages (both names and the cure). `earlier` names the stage that made this space. */
  accepts(input: Space, earlier: string): Space
  /** Absent: data-free. */
  readonly fit?: Fit
  /** Per layer and part; parses its artifact, which is there when the stage has `fit`. Throws ModelMismatch, ArtifactMismatch. */
  bind(site: Site, artifact?: Artifact): Bound[K]
}

export interface ModelStage {
  /** New weights of a possibly new shape. The engine runs it once, before anything else. */
  transform?(weights: ModelWeights): ModelWeights
  /** The earlier layer whose keys and values this layer reads (itself when it keeps its own). */
  sourceLayer?(layer: number): number
}

/** What a stage is once bound to a layer and part, by kind. */
export interface Bound {
  readonly model: ModelStage
  readonly score: Scorer
  readonly budget: BudgetStage
  readonly pick: Pick
  readonly resample: Resample
  readonly transform: Transform
  readonly predict: Predictor
  readonly quantize: Quantizer
  readonly recall: Recall
}

/** How calibration fits a stage. */
export type Fit =
  | {
      readonly scope: 'layer'
      /** Squared gradients of the loss are wanted. */
      readonly gradients?: boolean
      /** Predictors: what they will read for a part, before they are bound. */
      readonly sources?: (part: Part) => readonly PredictorSource[]
      run(samples: LayerSamples): Promise<Learned>
    }
  | { readonly scope: 'model'; run(run: CalibrationRun): Promise<Learned> }

/** What a stage is fitted on: one layer and part, as the stage will really receive it. */
export interface LayerSamples {
  readonly layer: number
  readonly part: Part
  readonly model: ModelShape
  /** Heads and dim of the rows. */
  readonly heads: number
  readonly dim: number
  /** One `[heads, n, dim]` per calibration sequence, after every earlier stage; borrowed, may be walked more than once. */
  readonly target: readonly HostTensor[]
  /** Predictors: per source, one `[n, heads * dim]` per sequence, reconstructions through the whole chain (closed loop). */
  readonly sources: readonly (readonly HostTensor[])[]
  /** Fisher: squared gradients of the loss, shaped like `target`; only when the fit asks and no earlier stage changed the rows' basis. */
  readonly gradients?: readonly HostTensor[]
}

/** What an engine offers to calibration. Layers must be asked for in ascending order; everything is the uncompressed model's. */
export interface CalibrationRun {
  readonly model: ModelShape
  readonly weights: ModelWeights
  /** Keys before RoPE and values of every calibration sequence, `[kvHeads, tokens, dim]`. */
  rows(layer: number): Promise<Readonly<Record<Part, readonly HostTensor[]>>>
  /** Squared gradients of the next-token loss with respect to what `rows` returns. */
  gradients(layer: number): Promise<Readonly<Record<Part, readonly HostTensor[]>>>
  /** Last hidden states (after the final norm) `[tokens, hidden]` per short sentence, run through a candidate (none: uncompressed). */
  hidden(candidate: KVCompressor | null): Promise<readonly HostTensor[]>
  /** Keys after RoPE and values of every layer for the same short sentences: `[layer][sentence]`, `[kvHeads, tokens, dim]`. */
  sentences(): Promise<readonly Readonly<Record<Part, readonly HostTensor[]>>[]>
  progress?(done: {
    readonly layer: number
    readonly layers: number
    readonly stage: string
    readonly part: Part | null
  }): void
}

/** A compressor whose artifacts fit; only such a one opens a cache. */
export interface Ready {
  readonly compressor: KVCompressor
  readonly artifacts: readonly Artifact[]
  readonly ready: true
}
