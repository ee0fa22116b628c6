/**
 * A compressor is data: a list of stages. `compose()` joins such lists, orders the stages by kind and checks that each can follow the one
 * before it, so a mix is a compressor again. Keys and values have the shape `[kvHeads, tokens, dim]`, queries `[queryHeads, tokens, dim]`.
 * The house words of these comments (stage, space, site, sealed, lane, ...) are defined in docs/guide/words.md.
 */
import type { RowStore } from '@kvloom/kernels'
import type { Artifact, Learned } from './artifact'
import type { BudgetStage, Picker, Scorer } from './evict'
import type { ActsOn, Kind, When } from './kinds'
import type { Lossless } from './lossless'
import type { ModelShape, ModelWeights } from './model'
import type { Recall } from './recall'
import type { Predictor, PredictorSource, Quantizer, Resample, Transform } from './rows'
import type { Site, Space } from './space'
import type { Training } from './training'
import type { HostTensor, Json, Part } from './values'
import type { MergedWindow, Windows } from './window'

/** What identifies a method; docs, tables and reports print it. */
export interface MethodCard {
  /** In kebab-case, as a composition writes it: `snapkv(keep=0.5)`. */
  readonly name: string
  readonly title: string
  readonly summary: string
  readonly paper?: { readonly title: string; readonly link: string }
  /** Whether the result is the same however the prompt was cut into chunks. */
  readonly chunkInvariant: boolean
}

/** What every method and every legal mix of methods is. It never changes; state lives in the cache that it opens. */
export interface KVCompressor {
  readonly card: MethodCard
  readonly stages: readonly AnyStage[]
  /** The rows that this compressor proposes to leave exact; `window()` overrides it. */
  readonly window?: Windows
  /** The windows that `window` was made of, one entry per part, where compressors of a mix proposed different ones. `compose()` sets it. */
  readonly mergedWindows?: readonly MergedWindow[]
  /** How numbers that no quantizer packs are stored: rows of the sinks and the window, and latents. Default f16. */
  readonly store?: RowStore
  /**
   * What a step sees of the rows that it brings itself. With `exact`, the default, it attends to them as they came and stores them
   * afterwards. With `stored` they are appended and sealed first, and it attends to what was stored of them, as methods that change
   * weights or ranks are meant (protocol W).
   */
  readonly ownRows?: 'exact' | 'stored'
}

export type AnyStage = { [K in Kind]: Stage<K> }[Kind]

export interface Stage<K extends Kind = Kind> {
  readonly kind: K
  /** Names the stage in its artifact, in errors and in saved caches. */
  readonly id: string
  /** The method that it is part of, where that has another name: `aqua-kv` of a stage `higgs`. `defineMethod` sets it; refusals name it. */
  readonly method?: string
  readonly options: Json
  readonly when: When
  /** Where it acts; everywhere when absent. `split()`, `onLayers()` and `exceptLayers()` set it. */
  readonly on?: ActsOn
  /** What other stages have to know of this one and cannot see in the space. Absent when the defaults hold. */
  readonly facts?: StageFacts
  /**
   * Stages of kind `score`: what one choice of tokens holds for. With `head` (default) every KV head has its own, with `layer` the heads of a
   * layer share one, with `model` all layers share one, which is chosen in `commit()`. `sharedTokens()` sets it.
   */
  readonly tokenSets?: Space['tokenSets']
  /**
   * The space that it hands on to the next stage. `earlier` names the stage that made `input`.
   * @throws IncompatibleStages naming both stages and the cure, when it cannot work on `input`
   */
  accepts(input: Space, earlier: string): Space
  /** How it learns from a model; a stage without it learns nothing. */
  readonly fit?: Fit
  /** Stages of kind `model`: how the weights that they make are trained by who wants that; a stage without it is used as it is. */
  readonly training?: Training
  /**
   * Makes the stage for one part of one layer. `artifact` is what its `fit` learned, and is there when it has one.
   * @throws ModelMismatch, ArtifactMismatch
   */
  bind(site: Site, artifact?: Artifact): Bound[K]
}

/** What other stages and the windows have to know of a stage before there is a model. What `bind` returns must agree with it. */
export interface StageFacts {
  /** What a pick chooses by. A pick by `positions` needs no scores, and is refused beside a scorer, which it would ignore. Default `scores`. */
  readonly by?: 'scores' | 'positions'
  /** Whether a pick drops rows one by one, here and there, after the prompt too. Default false. A scorer says so by its `when`. */
  readonly scatters?: boolean
  /** Whether a budget or a pick may leave the KV heads of a layer with different numbers of rows, as its `ragged` says. Default false. */
  readonly ragged?: boolean
  /** A pick numbers rows anew after it dropped some: the rows from this number on. Default: rows keep their positions. */
  readonly renumbersFrom?: number
  /** How many rows a quantizer seals, masks and frees together, as its `rowsPerGroup` says. Default 1. */
  readonly rowsPerGroup?: number
  /** What a quantizer asks of the channels of its rows. Default: any number of them. */
  readonly channels?: ChannelGroups
  /** Where a recall's indexed rows lie, as its `tier` says. Default `device`. */
  readonly tier?: 'device' | 'host'
}

/**
 * Rows have a multiple of so many channels: those of one head, or those of all heads of a token. A fit that chooses channels chooses such a
 * multiple, and rows of another number are refused as soon as it is known.
 */
export interface ChannelGroups {
  readonly multipleOf: number
  readonly of: 'head' | 'token'
}

export interface BoundModel {
  /** Makes new weights, whose shape may differ. The engine calls it once, before anything else. */
  transform?(weights: ModelWeights): ModelWeights
  /** The earlier layer whose keys and values `layer` reads, or `layer` itself when it keeps its own. */
  sourceLayer?(layer: number): number
}

/** What a stage is once bound to a layer and part, by kind. */
export interface Bound {
  readonly model: BoundModel
  readonly score: Scorer
  readonly budget: BudgetStage
  readonly pick: Picker
  readonly resample: Resample
  readonly transform: Transform
  readonly predict: Predictor
  readonly quantize: Quantizer
  readonly recall: Recall
  readonly lossless: Lossless
}

/** How calibration fits a stage. */
export type Fit = {
  /**
   * Says what the stage will be once it is fitted, as far as its options and the site tell. Stages behind it are checked against that before
   * anything is fitted, and a cache refuses a fitted stage that became something else.
   * @throws ModelMismatch when no fit could give what is asked
   */
  foresee?(site: Site, asked: Asked): Foreseen
} & (
  | {
      readonly scope: 'layer'
      /**
       * Whether it needs squared gradients of the loss. They are of the model's own rows, so such a stage is refused behind a transform; `without`
       * are options of its method under which it needs none.
       */
      readonly gradients?: boolean | { readonly without: Readonly<Record<string, string | number | boolean>> }
      /** For predictors: what one will read for a part. It is asked before the predictor is bound. */
      readonly sources?: (part: Part) => readonly PredictorSource[]
      run(samples: LayerSamples, asked: Asked): Promise<Learned>
    }
  | { readonly scope: 'model'; run(run: CalibrationRun, asked: Asked): Promise<Learned> }
)

/** What the stages beside it ask of what a fit chooses. It is known before anything is fitted. */
export interface Asked {
  /** Of a transform: the channels of its latents are a multiple of this. 1 asks for nothing. */
  readonly channels: number
  /** Of a model stage: layers that keep rows of their own, since a transform joins them with others. */
  readonly layers: readonly number[]
}

/** What a stage will be once it is fitted. */
export interface Foreseen {
  /** Of a transform: its latents. A fit that chooses `dim` chooses another multiple of what is asked. */
  readonly main?: Transform['main']
  /** Of a transform: the layers that it joins, as its `layers`. */
  readonly layers?: readonly number[]
  /** Of a quantizer: whether it takes all KV heads of a token as one row, as its `mergedHeads`. */
  readonly mergedHeads?: boolean
}

/** What a stage is fitted on: rows of one layer and part, as the stage will receive them when it runs. */
export interface LayerSamples {
  readonly layer: number
  readonly part: Part
  readonly model: ModelShape
  /** Heads and dim of the rows. */
  readonly heads: number
  readonly dim: number
  /**
   * One `[heads, n, dim]` per calibration sequence, after every earlier stage; keys on the side of RoPE on which the layer stores them. They
   * are borrowed, and may be read more than once.
   */
  readonly target: readonly HostTensor[]
  /** For predictors: per source, one `[n, heads * dim]` per sequence. They are reconstructions, as a cache will have them, not originals. */
  readonly sources: readonly (readonly HostTensor[])[]
  /** Squared gradients of the loss, shaped like `target`. They are there when the fit asks for them. */
  readonly gradients?: readonly HostTensor[]
}

/** Of which texts and predictions Fisher information is. */
export interface FisherWish {
  /** How many tokens on the predicted one stands: 1 is the next one. */
  readonly ahead: number
  /**
   * Cuts longer calibration sequences into texts of so many tokens, each run alone; what is left over at the end of a sequence is left out.
   * Default: sequences as they are.
   */
  readonly tokens?: number
}

/** What an engine offers to calibration, all of it from the uncompressed model. Layers are best asked for in ascending order: an earlier one begins anew. */
export interface CalibrationRun {
  readonly model: ModelShape
  readonly weights: ModelWeights
  /** Keys before RoPE and values of every calibration sequence, `[kvHeads, tokens, dim]`. Every sequence begins at position 0. */
  rows(layer: number): Promise<Readonly<Record<Part, readonly HostTensor[]>>>
  /**
   * The same of a pass in which every earlier layer attends to what `replace` makes of its rows, one sequence at a time: what a layer will
   * receive once the layers before it are compressed. Absent where an engine cannot run its layers so.
   */
  shifted?(
    layer: number,
    replace: (layer: number, rows: Readonly<Record<Part, HostTensor>>) => Readonly<Record<Part, HostTensor>>,
  ): Promise<Readonly<Record<Part, readonly HostTensor[]>>>
  /** Squared gradients of the next-token loss with respect to what `rows` returns. */
  gradients(layer: number): Promise<Readonly<Record<Part, readonly HostTensor[]>>>
  /**
   * The Fisher information of weights, by name and in a weight's own shape: the square of the gradient of a text's mean loss, number by
   * number, and the mean of that over the texts. Every ask is a pass through the model and back, so all that is needed is asked for at
   * once. Absent where an engine has no gradients of weights.
   * @param weights canonical names of weights of layers, as in `layers.3.attention.key`
   * @throws OptionError for other names, and for texts that are too short to predict anything
   */
  weightFisher?(weights: readonly string[], wish: FisherWish): Promise<Readonly<Record<string, HostTensor>>>
  /**
   * Last hidden states (after the final norm) `[tokens, hidden]` of each short sentence, run through `candidate`, or uncompressed when it
   * is null.
   */
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
