/**
 * The contract: a compressor is data, a list of stages. `compose()` flattens, orders by kind and checks,
 * so a mix is again a compressor. Shapes: keys and values `[kvHeads, tokens, dim]`, queries `[queryHeads, tokens, dim]`.
 */
import type { AffineLayout, CodebookLayout, RowStore } from '@kvloom/kernels'
import type { Tensor } from '@tensorflow/tfjs-core'

export type { AffineLayout, CodebookLayout, RowStore }
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }
export type Tensors = Readonly<Record<string, Tensor>>
export type Part = 'keys' | 'values'

/** The kinds of stage, in the order of a token's life. */
export const KINDS = [
  'model',
  'score',
  'budget',
  'pick',
  'resample',
  'transform',
  'predict',
  'quantize',
  'recall',
] as const
export type Kind = (typeof KINDS)[number]

/**
 * When a stage acts: at load; before an append (`room`); after every append, each chunk of a prompt and its end included (`step`); once at the
 * end of the prompt (`promptEnd`); at sealing; at reading; or whenever a multiple of n tokens is reached, and at the end of the prompt.
 */
export type When = 'load' | 'room' | 'step' | 'promptEnd' | 'seal' | 'read' | { readonly everyTokens: number }

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
  readonly on?: { readonly part?: Part; readonly layers?: readonly number[]; readonly except?: readonly number[] }
  /** What it hands on; throws IncompatibleStages (both names and the cure). `earlier` names the stage that made this space. */
  accepts(input: Space, earlier: string): Space
  /** Absent: data-free. */
  readonly fit?: Fit
  /** Per layer and part; parses its artifact, which is there when the stage has `fit`. Throws ModelMismatch, ArtifactMismatch. */
  bind(site: Site, artifact?: Artifact): Bound[K]
}

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

/** A tensor in host memory: what artifacts and tables are made of. */
export interface HostTensor {
  readonly shape: readonly number[]
  readonly values: Float32Array | Int32Array
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

/** How many rows stay exact, per part. `window()` overrides a method's proposal. */
export interface Windows {
  /** First tokens of the sequence that are never sealed. */
  readonly sinks: number
  readonly keys: Window
  readonly values: Window
}
/**
 * At least `recent` newest rows stay exact. Once `recent + block` rows wait, whole blocks of the oldest are sealed:
 * as many as fit (`blocks`), or every row beyond `recent` (`all`).
 */
export interface Window {
  readonly recent: number
  readonly block: number
  readonly drain: 'blocks' | 'all'
}

/** What a stage may ask to see. Attention is over query heads, never pre-averaged. */
export type Observation =
  /** `[queryHeads, tokens]`: attention of the last n queries (or of all of this step) to each stored token, reduced over queries. */
  | { readonly of: 'attention'; readonly queries: 'all' | number; readonly reduce: 'sum' | 'max' }
  /** `[queryHeads, last, keyDim]` after RoPE, a counted ring; `last: Infinity` remembers the whole prompt. */
  | { readonly of: 'queries'; readonly last: number }
  /** `[kvHeads, tokens, dim]` as stored when asked (keys after RoPE): the exact window, else decoded. */
  | { readonly of: 'keys' | 'values' }
  /** `[kvHeads, tokens]` int32: the token of every stored row. */
  | { readonly of: 'tokenIds' }
  /** `[kvHeads, tokens]` int32: original position of every stored row. */
  | { readonly of: 'positions' }
export type Needs = Readonly<Record<string, Observation>>
export type Observed<N extends Needs = Needs> = { readonly [K in keyof N]: Tensor }

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

export interface ModelStage {
  /** New weights of a possibly new shape. The engine runs it once, before anything else. */
  transform?(weights: ModelWeights): ModelWeights
  /** The earlier layer whose keys and values this layer reads (itself when it keeps its own). */
  sourceLayer?(layer: number): number
}

/**
 * Rows of every KV head that stay whatever scores, counts and budgets say: the `first` (sinks) and the `last` (the newest) of those
 * it holds. Counts are raised to them where they are smaller. A head of any layer keeps at least one row, promised or not.
 */
export interface Protected {
  /** Default 0. */
  readonly first?: number
  /** Default 0. */
  readonly last?: number
}

/** A number per token and KV head, larger = keep, and how many to keep when no budget stage says so. */
export interface Scorer<N extends Needs = Needs> {
  readonly needs: N
  /** Rows that stay; core lifts their scores above all others. Default none. */
  readonly protect?: Protected
  /** Per-token state by name, initial value 0 for new rows; core gathers, counts and serialises it. */
  readonly columns?: readonly string[]
  /** How many of `tokens` stored rows stay; `tokens` itself means nothing is dropped. Core keeps at least the protected rows, and one. */
  count(tokens: number): number
  /** Returns scores `[kvHeads, tokens]` (or `[1, tokens]`: one set for the layer) and the columns' new values `[kvHeads, tokens]`. */
  score(
    seen: Observed<N>,
    columns: Tensors,
    now: ScoreContext,
  ): Tensor | { readonly scores: Tensor; readonly columns: Tensors }
}

/** Where in the sequence a scorer acts: a cache may take a second prompt, which does not begin at position 0. */
export interface ScoreContext {
  readonly phase: Phase
  /** Tokens seen so far, this step's included. */
  readonly tokensSeen: number
}

/** How many tokens each KV head of a layer keeps. Different counts make the layer ragged (`ragged: true`, decided at open). */
export interface BudgetStage {
  readonly ragged: boolean
  /**
   * `scores[h]` is `[1, tokens]` of KV head h, protected rows at infinity, dropped ones at -infinity; heads may hold different numbers
   * of rows. `uniform` is what the scorer would keep per head (the mean, rounded down, where heads differ). Core raises a count to
   * the head's `floor` and lowers it to the rows it holds.
   */
  counts(
    scores: readonly Tensor[],
    uniform: number,
    heads: readonly HeadShare[],
  ): readonly number[] | Promise<readonly number[]>
}
/** What one KV head holds and what the scorer would leave it. */
export interface HeadShare {
  /** Rows it holds. */
  readonly rows: number
  /** Rows that the scorer would keep. */
  readonly uniform: number
  /** Rows that stay in any case: the protected ones, at least one. */
  readonly floor: number
}

/** Half-open range of stored rows `[start, end)`, the same for every KV head. */
export interface RowRange {
  readonly start: number
  readonly end: number
}

/** Which tokens stay. Core's default over a scorer is the stable top-k. */
export interface Pick<N extends Needs = Needs> {
  readonly needs: N
  /** `positions`: the choice needs no scores and is refused beside a scorer. */
  readonly by: 'scores' | 'positions'
  /** Rows that stay, which `keep` chooses among others. With `when: 'room'` it is a promise of `count`, new rows included. Default none. */
  readonly protect?: Protected
  /**
   * How many of `tokens` rows stay; core keeps at least the protected ones, and one. With `when: 'room'`, what stays before
   * `incoming` new rows are appended, as it is.
   */
  count(tokens: number, incoming: number): number
  /** The most tokens one append may bring (a recent window cannot take more than itself). */
  readonly chunkLimit?: number
  /** `'slot'`: rows are re-numbered without gaps after a drop (StreamingLLM); `'original'`: positions never change. */
  readonly positions: 'original' | 'slot'
  /** Row ranges that stay (same for all heads), or a mask `[kvHeads, tokens]` with exactly `count` ones per head. */
  keep(
    tokens: number,
    count: number,
    scores: Tensor | null,
    seen: Observed<N>,
    now: PickContext,
  ): readonly RowRange[] | Tensor
  /** Each KV head keeps its own number of rows: the mask of `keep` counts, not `count`, and `keep` is asked at every turn. */
  readonly ragged?: boolean
}

/** Where in the sequence a pick acts. */
export interface PickContext extends ScoreContext {
  /** First KV head of the lane at hand (a lane per head when ragged). */
  readonly head: number
  /** What the pick wants to remember about this lane; stored with the cache, serialised, copied by a fork. */
  memory: Json
}

/** Rows that replace rows: a fixed linear map along the sequence, run when the cache is full. Keys come before RoPE and are rotated by slot. */
export interface Resample {
  /** First rows that are never touched. */
  readonly sinks: number
  /** Slots at which the cache is full, sinks included. */
  readonly capacity: number
  /** How many rows the `capacity - sinks` rows become. */
  readonly to: number
  /** `[heads, capacity - sinks, dim]` f32 to `[heads, to, dim]`; runs in tf.tidy. */
  apply(rows: Tensor): Tensor
}

/**
 * Rows to latents and back. Decode is declared as data, `x = scale * (main . up) + bias`; core derives from it the query side
 * (keys after RoPE: `q . up^T`), the output side (values: `output . up`) and tiles (everything else).
 * All methods run in tf.tidy and dispose nothing.
 */
export interface Transform {
  /** What the map is fitted on: the model (an artifact), or this prompt (at its end). */
  readonly fitted: 'model' | 'prompt'
  readonly needs: Needs
  /** Heads and dim of `main`. `heads` divides the KV heads; main head j stands for its run of adjacent KV heads. */
  readonly main: { readonly heads: number; readonly dim: number }
  /** Whether rows that leave the window after the prompt are transformed too (default), or stay exact. */
  readonly afterPrompt?: boolean
  /** State of this prompt from the rows kept at its end; stored and counted as perPrompt. Tensors may be int32. */
  fitOnline?(rows: Tensor, seen: Observed): Tensors
  /** `members`: the same rows `[heads, n, dim]` of every layer of the group (one unless `layers` says more), ascending. */
  encode(members: readonly Tensor[], state: Tensors): Encoded
  /** How layer number `member` of the group is decoded. `up` `[main.heads, main.dim, heads * dim / main.heads]`, `bias` `[heads, 1, dim]`. */
  decoder(state: Tensors, member: number): { readonly up?: Tensor; readonly bias?: Tensor }
  /** Layers that are compressed together, ascending, this one included; rows are sealed when the last one has them. Default: alone. Empty: the stage does not act here. */
  readonly layers?: readonly number[]
}
export interface Encoded {
  /** `[main.heads, n, main.dim]`: what later stages receive. */
  readonly main: Tensor
  /** Per layer of the group `[heads, n]`: multiplies the decoded row. */
  readonly scale?: readonly Tensor[]
  /** Rows that stay exact, `mask` `[heads, n]` 1 = exempt, as many per head as it marks. Read once when sealed. */
  readonly exempt?: Tensor
}

/** What predictors read: `back: 1` the previous layer, `back: 0` this layer (keys, when values are predicted). */
export interface PredictorSource {
  readonly back: 0 | 1
  readonly part: Part
}

/** What the reader can guess from reconstructions. Rows are merged over heads `[1, n, heads * dim]`; what flows on is the residual. */
export interface Predictor {
  /** In the order of the weights. */
  readonly sources: readonly PredictorSource[]
  /** Sources `[n, heads * dim]` each to `[n, heads * dim]`; row i depends on row i alone, with one order of sums. */
  predict(sources: readonly Tensor[]): Tensor
  /** Keep reconstructions between steps (counted as workspace) instead of rebuilding them at each step. */
  readonly keepReconstruction: boolean
}

/** Packed bits; the last lossy step. */
export interface Quantizer {
  /** `affine` and `codebook` have a fused attention kernel and store `{ words, metadata }` or `{ codes, metadata? }`; `custom` is decoded by tiles. */
  readonly layout: AffineLayout | CodebookLayout | { readonly kind: 'custom' }
  /** The codebook, from `site.hold`: f32 `[entries, vector]` shared, or `[heads, dim / vector, entries, vector]`. */
  readonly table?: Tensor
  /** Rows of all KV heads of a token as one row `[1, n, heads * dim]`. */
  readonly mergedHeads?: boolean
  /** 1: every stored tensor is `[heads, rows, width]` and rows gather; more: rows of a block are sealed, masked and freed together. */
  readonly rowsPerGroup: number
  /** Rows that share a word of the tensors named `metadata...`, which then are `[heads, ceil(rows / rowsPerUnit), ...]`: 2 when halves of two rows lie in a word. Default 1. */
  readonly rowsPerUnit?: 1 | 2
  /** Largest magnitude its metadata can hold; rows beyond it are refused when they are appended. Default: any finite number. */
  readonly largest?: number
  /** Formula, for the report; bytes are facts of the ledger. */
  readonly theoreticalBitsPerValue: number
  /** `[heads, n, dim]` f32 to named tensors; n is a multiple of rowsPerGroup. Names that begin with `metadata` count as metadata. */
  encode(rows: Tensor): Tensors
  /** The definition; fused forms must agree with it. Returns f32 `[heads, rows, dim]`. */
  decode(block: Tensors, rows: number): Tensor
}

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

/** What a fit returns; core adds the fingerprint. With scope `layer`, names are of one layer and part. */
export interface Learned {
  readonly json: Json
  readonly tensors: Readonly<Record<string, HostTensor>>
}

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

/** A stage that shapes rows, as an artifact remembers it. */
export interface FittedStage {
  readonly kind: Kind
  readonly id: string
  readonly options: Json
  readonly on: Stage['on'] | null
}

/** What an artifact was fitted for; its fingerprint hashes the same facts. */
export interface FittedFor {
  /** Name of the model, for people. */
  readonly model: string
  /** The model's fingerprint. */
  readonly weights: string
  /** Every stage that shapes rows, in order. */
  readonly stages: readonly FittedStage[]
}

/** What a fitted stage learned: named tensors and JSON with a fingerprint of model, options and neighbouring stages. */
export interface Artifact {
  readonly stage: string
  readonly fingerprint: string
  /** What the fingerprint stands for; absent in artifacts of an older kvloom. */
  readonly fittedFor?: FittedFor
  /** What the fits returned: by `<layer>.<part>` (scope `layer`), by `model.<part>` or `model.both` (scope `model`). */
  readonly json: Json
  /** Scope `layer`: named `<layer>.<part>.<name>`. */
  readonly tensors: Readonly<Record<string, HostTensor>>
}

/** Rotary embedding as data: half-split pairs (j, j + dim/2). */
export interface Rope {
  /** Rotated channels; fewer than keyDim means partial rotary. */
  readonly dim: number
  /** Angle per position of each pair, `dim / 2` numbers, scaling variants already applied. */
  readonly frequencies: Float64Array
  /** YaRN / LongRoPE attention factor multiplied into cos and sin; 1 otherwise. */
  readonly attentionFactor: number
}

/** What a cache must know of a model. */
export interface ModelShape {
  readonly name: string
  readonly layers: number
  readonly queryHeads: number
  readonly kvHeads: number
  readonly keyDim: number
  readonly valueDim: number
  readonly contextLength: number
  /** null: the model does not rotate (or keys come rotated already). */
  readonly rope: Rope | null
  /** Multiplies q . k, normally 1 / sqrt(keyDim). */
  readonly attentionScale: number
  /** Identifies weights for artifacts. */
  readonly fingerprint: string
  /** Ids of the `model` stages whose transform these weights went through. A cache refuses a compressor whose model stages are not here. */
  readonly transformedBy?: readonly string[]
}

/** Model weights by canonical name (`layers.3.attention.key`), `[out, in]`; engines implement it for `model` stages. */
export interface ModelWeights {
  readonly shape: ModelShape
  names(): readonly string[]
  get(name: string): Promise<Tensor>
}

/** A compressor whose artifacts fit; only such a one opens a cache. */
export interface Ready {
  readonly compressor: KVCompressor
  readonly artifacts: readonly Artifact[]
  readonly ready: true
}

export type Phase = 'prompt' | 'promptEnd' | 'decode'

/** One sequence's cache. */
export interface KVCache {
  readonly model: ModelShape
  readonly compressor: KVCompressor
  /** The most tokens one `begin` may announce now; it may change with every step. */
  readonly chunkLimit: number
  /** Tokens that the sequence may still grow by before the model's context is full; Infinity where rows are numbered anew. */
  readonly contextLeft: number
  /** How many of `tokens` the next `begin` takes: what its chunk limit and the model's context allow, 0 when the context is full. */
  canTake(tokens: number): number
  /** Tokens seen so far, dropped ones included; the next token's original position. */
  readonly tokensSeen: number
  /** Announces the next tokens and makes room (stages with `when: 'room'`). Throws ContextOverflow, CacheStateError. */
  begin(tokens: Int32Array, phase: Phase): void
  /**
   * Queries `[queryHeads, n, keyDim]` and keys `[kvHeads, n, keyDim]` BEFORE RoPE, values `[kvHeads, n, valueDim]`.
   * Rotates, attends to the compressed past and to this chunk exactly, appends, observes, evicts and seals.
   * Returns f32 `[queryHeads, n, valueDim]`, owned by the caller. Inputs stay the caller's. One call at a time. Throws NonFiniteError,
   * CacheStateError.
   */
  attend(layer: number, now: { queries: Tensor; keys?: Tensor; values?: Tensor }): Promise<Tensor>
  /** The layer whose rows a layer reads; itself unless layers are shared (then keys and values are not handed over). */
  sourceLayer(layer: number): number
  /** Attention of queries (before RoPE, at positions `tokensSeen - n ...`) over what is stored; nothing is appended. */
  read(layer: number, queries: Tensor): Promise<Tensor>
  /** Ends the step: finishes what spans layers and frees blocks whose rows are all dropped. */
  commit(): Promise<void>
  /** An independent continuation; full pages are shared by count. */
  fork(): KVCache
  /**
   * Forgets the newest `tokens` tokens, as if they had never come. Possible back to the last step in which a stage sealed, dropped or
   * looked at rows. Throws CacheStateError beyond it, which names `fork()`.
   */
  rollback(tokens: number): void
  bytes(): ByteLedger
  /** What is held, by zone; for tests, tools and theoretical bits. */
  census(layer: number): LayerCensus
  /**
   * Reconstructed rows of one lane in storage order, `[lane heads, rows, dim]`; keys as stored (after RoPE). Owned by the caller.
   * `positions[h]` are original positions per head, -1 for a dropped row that its block still holds. A layer has one lane
   * unless its heads are ragged (then one per KV head).
   */
  materialize(layer: number, lane?: number): Promise<{ keys: Tensor; values: Tensor; positions: Int32Array[] }>
  /** The stored segments as they are, borrowed: for tests and golden checks. One entry per lane (set of heads stored together). */
  segments(layer: number): readonly LaneView[]
  serialize(): AsyncIterable<Uint8Array>
  dispose(): void
}

export interface SegmentView {
  readonly zone: 'sink' | 'sealed' | 'window'
  readonly tensors: Tensors
  readonly from: number
  readonly rows: number
  readonly capacity: number
  readonly layout:
    | AffineLayout
    | CodebookLayout
    | { readonly kind: 'custom' }
    | { readonly kind: 'dense'; readonly store: RowStore }
}
export interface LaneView {
  readonly heads: readonly number[]
  readonly keys: readonly SegmentView[]
  readonly values: readonly SegmentView[]
}

/** Rows held, per part, summed over heads and divided by kvHeads (so a ragged layer may be fractional). */
export interface LayerCensus {
  readonly keys: PartCensus
  readonly values: PartCensus
  /** Dead rows still held: in blocks that cannot be gathered, or because too few are dead to be worth a copy. */
  readonly dead: number
  /** Bytes that the rows attention still sees take in the form they are stored in. */
  readonly liveBytes: number
  /** Sum over parts and lanes of the bytes of the largest page: what page sizes alone may cost. */
  readonly pageBytes: number
}

/** Bytes really held, by kind. Every number is a sum over live tensors; `total` equals the growth of tf.memory().numBytes. */
export interface ByteLedger {
  /** Packed codes of sealed rows. */
  readonly payload: number
  /** Scales, minima, norms of sealed rows. */
  readonly metadata: number
  /** Exact rows: sinks and recent window, rows in use. */
  readonly window: number
  /** Rows allocated and not in use (page slack, dropped rows not yet reclaimed by page). */
  readonly slack: number
  /** Positions after eviction, live masks, score columns, query rings. */
  readonly state: number
  /** Recall indexes. */
  readonly index: number
  /** Reconstructions kept between steps. */
  readonly workspace: number
  /** Tables fitted per prompt. */
  readonly perPrompt: number
  /** Rows of a recall's host tier, in host memory: not in `total`, which is the device's. */
  readonly host: number
  /** Tables of the model that this cache holds: codebooks, maps, rotary tables of keys stored before RoPE. */
  readonly perModel: number
  readonly total: number
  /** Highest total since open, transients of an eviction included. */
  readonly peak: number
  /** Of total: bytes in pages also held by a fork. */
  readonly shared: number
}

/** Rows of one part. A layer that reads another layer's rows holds none. */
export interface PartCensus {
  readonly exact: number
  readonly sealed: number
  /** By formula: bits per value of the model's own rows that a sealed row takes, shares of a layer group and metadata included. */
  readonly sealedBitsPerValue: number
}
