/**
 * The contract: a compressor is data, a list of stages. `compose()` flattens, orders by kind and checks,
 * so a mix is again a compressor. Shapes: keys and values `[kvHeads, tokens, dim]`, queries `[queryHeads, tokens, dim]`.
 */
import type { AffineLayout, RowStore } from '@kvloom/kernels'
import type { Tensor } from '@tensorflow/tfjs-core'

export type { AffineLayout, RowStore }
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
  /** How exact rows are stored (sinks, recent window, dense caches). Default f16. */
  readonly store?: RowStore
}

export type AnyStage = { [K in Kind]: Stage<K> }[Kind]
export interface Stage<K extends Kind = Kind> {
  readonly kind: K
  /** Names its artifact, its row in the byte ledger, its serialised records. */
  readonly id: string
  readonly options: Json
  readonly when: When
  /** Set by `split({ keys, values })` and `onLayers([2, 29], c)`. */
  readonly on?: { readonly part?: Part; readonly layers?: readonly number[] }
  /** What it hands on; throws IncompatibleStages (both names and the cure). `earlier` names the stage that made this space. */
  accepts(input: Space, earlier: string): Space
  /** Absent: data-free. */
  readonly fit?: Fit
  /** Per layer and part; parses its artifact. Throws ModelMismatch. */
  bind(site: Site, artifact?: Artifact): Bound[K]
}

/** What flows between stages, per part: rows of shape `[heads, tokens, dim]`. */
export interface Space {
  readonly part: Part
  /** Heads that share one row; `'all'` = heads merged. */
  readonly heads: 'each' | 'all'
  /** null while it is the model's own dim; a number once a stage changed it. */
  readonly dim: number | null
  readonly rope: 'pre' | 'post' | 'none'
  /** False once rotary pairs are broken (ThinK's mask, a PCA after RoPE). */
  readonly pairsIntact: boolean
  /** Size of a layer group that is compressed together. */
  readonly layerGroup: number
  /** Over what the kept tokens are identical. */
  readonly tokenSets: 'head' | 'layer' | 'model'
  /** True after FreqKV: rows are not tokens any more. */
  readonly slots: boolean
  /** One row decodes alone: not AQUA-KV chains, not entropy codes. */
  readonly randomAccess: boolean
}

/** Where a stage is bound: one layer, one part of a known model. */
export interface Site {
  readonly layer: number
  readonly part: Part
  readonly model: ModelShape
  readonly heads: number
  readonly dim: number
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
  /** `[queryHeads, last, keyDim]` after RoPE, a counted ring. */
  | { readonly of: 'queries'; readonly last: number }
  /** `[kvHeads, tokens, dim]` as stored when asked (after RoPE): the exact window, else decoded. */
  | { readonly of: 'keys' | 'values' }
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
  readonly resample: { readonly from: number; readonly to: number; apply(rows: Tensor): Tensor }
  readonly transform: Transform
  readonly predict: {
    readonly sources: readonly { readonly back: 0 | 1; readonly part: Part }[]
    predict(sources: readonly Tensor[]): Tensor
  }
  readonly quantize: Quantizer
  readonly recall: Recall
}

export interface ModelStage {
  transform?(weights: ModelWeights): ModelWeights
  /** The layer whose cache this layer reads. */
  sourceLayer?(layer: number): number
}

/** A number per token and KV head, larger = keep, and how many to keep when no budget stage says so. */
export interface Scorer<N extends Needs = Needs> {
  readonly needs: N
  /** Per-token state by name, initial value 0 for new rows; core gathers, counts and serialises it. */
  readonly columns?: readonly string[]
  /** How many of `tokens` stored rows stay; `tokens` itself means nothing is dropped. */
  count(tokens: number): number
  /** Returns scores `[kvHeads, tokens]` (or `[1, tokens]`: one set for the layer) and the columns' new values `[kvHeads, tokens]`. */
  score(seen: Observed<N>, columns: Tensors): Tensor | { readonly scores: Tensor; readonly columns: Tensors }
}

/** How many tokens each KV head of a layer keeps. Different counts make the layer ragged (`ragged: true`, decided at open). */
export interface BudgetStage {
  readonly ragged: boolean
  /** `scores[h]` is `[1, tokens]` of KV head h; `uniform` is what the scorer would keep per head. */
  counts(scores: readonly Tensor[], uniform: number): readonly number[] | Promise<readonly number[]>
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
  /** With `when: 'room'`, what is kept before `incoming` new rows are appended. */
  count(tokens: number, incoming: number): number
  /** The most tokens one append may bring (a recent window cannot take more than itself). */
  readonly chunkLimit?: number
  /** `'slot'`: rows are re-numbered without gaps after a drop (StreamingLLM); `'original'`: positions never change. */
  readonly positions: 'original' | 'slot'
  /** Row ranges that stay (same for all heads), or a mask `[kvHeads, tokens]` with exactly `count` ones per head. */
  keep(tokens: number, count: number, scores: Tensor | null, seen: Observed<N>): readonly RowRange[] | Tensor
}

/** Decode is declared as data, `x = tokenScale * (main . up) + bias`; core derives the folded fast paths. */
export interface Transform {
  readonly fitted: 'model' | 'prompt' | 'block'
  readonly needs: Needs
  fitOnline?(rows: Tensor, seen: Observed): Tensors | Promise<Tensors>
  encode(rows: Tensor, state: Tensors): { readonly main: Tensor; readonly side: Tensors; readonly exempt?: Tensor }
  decoder(state: Tensors, side: Tensors, member: number): { up?: Tensor; bias?: Tensor; tokenScale?: Tensor }
}

/** Packed bits; the last lossy step. */
export interface Quantizer {
  /** `affine` has a fused attention kernel and stores `{ words, metadata }`; `custom` is decoded by tiles. */
  readonly layout: AffineLayout | { readonly kind: 'custom' }
  /** 1: every stored tensor is `[heads, rows, width]` and rows gather; more: rows of a block are sealed, masked and freed together. */
  readonly rowsPerGroup: number
  /** Largest magnitude its metadata can hold; rows beyond it are refused when they are appended. Default: any finite number. */
  readonly largest?: number
  /** Formula, for the report; bytes are facts of the ledger. */
  readonly theoreticalBitsPerValue: number
  /** `[heads, n, dim]` f32 to named tensors; n is a multiple of rowsPerGroup. Names in `metadata` count as metadata. */
  encode(rows: Tensor): Tensors
  /** The definition; fused forms must agree with it. Returns f32 `[heads, rows, dim]`. */
  decode(block: Tensors, rows: number): Tensor
}

export interface Recall {
  readonly tier: 'device' | 'host'
  index(rows: Tensor): Tensors | Promise<Tensors>
  select(queries: Tensor, index: Tensors, budget: number): Tensor
}

/** How calibration fits a stage. */
export type Fit =
  | { readonly scope: 'layer'; run(samples: LayerSamples): Promise<Artifact> }
  | { readonly scope: 'model'; run(run: CalibrationRun): Promise<Artifact> }

/** Layer by layer, keys before values, stages in order, downstream fitted before the next layer. */
export interface LayerSamples {
  readonly layer: number
  readonly part: Part
  /** Rows as this stage will receive them, after every earlier stage. */
  readonly target: AsyncIterable<Tensor>
  /** Reconstructions through the whole chain (closed loop). */
  readonly sources: readonly AsyncIterable<Tensor>[]
  /** Fisher: squared gradients, same shape as target. */
  readonly gradients?: AsyncIterable<Tensor>
}

/** What an engine offers to calibration. */
export interface CalibrationRun {
  readonly model: ModelShape
  capture(what: readonly Observation[]): AsyncIterable<Tensors>
  /** Runs a candidate; last hidden states `[tokens, hidden]`. */
  hidden(candidate: readonly AnyStage[]): Promise<Tensor>
}

/** What a fitted stage learned: named tensors and JSON with a fingerprint of model, options and neighbouring stages. */
export interface Artifact {
  readonly stage: string
  readonly fingerprint: string
  readonly json: Json
  readonly tensors: Tensors
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
  /** The most tokens one `begin` may announce. */
  readonly chunkLimit: number
  /** Tokens seen so far, dropped ones included; the next token's original position. */
  readonly tokensSeen: number
  /** Announces the next tokens and makes room (stages with `when: 'room'`). Throws ContextOverflow, CacheStateError. */
  begin(tokens: Int32Array, phase: Phase): void
  /**
   * Queries `[queryHeads, n, keyDim]` and keys `[kvHeads, n, keyDim]` BEFORE RoPE, values `[kvHeads, n, valueDim]`.
   * Rotates, attends to the compressed past and to this chunk exactly, appends, observes, evicts and seals.
   * Returns f32 `[queryHeads, n, valueDim]`, owned by the caller. Inputs stay the caller's. Throws NonFiniteError.
   */
  attend(layer: number, now: { queries: Tensor; keys: Tensor; values: Tensor }): Promise<Tensor>
  /** Attention of queries (before RoPE, at positions `tokensSeen - n ...`) over what is stored; nothing is appended. */
  read(layer: number, queries: Tensor): Promise<Tensor>
  /** Ends the step: finishes what spans layers and frees blocks whose rows are all dropped. */
  commit(): Promise<void>
  /** An independent continuation; full pages are shared by count. */
  fork(): KVCache
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
  readonly layout: AffineLayout | { readonly kind: 'custom' } | { readonly kind: 'dense'; readonly store: RowStore }
}
export interface LaneView {
  readonly heads: readonly number[]
  readonly keys: readonly SegmentView[]
  readonly values: readonly SegmentView[]
}

/** Rows held, per part, summed over heads and divided by kvHeads (so a ragged layer may be fractional). */
export interface LayerCensus {
  readonly keys: { readonly exact: number; readonly sealed: number }
  readonly values: { readonly exact: number; readonly sealed: number }
  /** Dead rows still held in blocks that cannot be gathered. */
  readonly dead: number
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
  /** Tables fitted per model, shared by every cache of it. */
  readonly perModel: number
  readonly total: number
  /** Highest total since open, transients of an eviction included. */
  readonly peak: number
  /** Of total: bytes in pages also held by a fork. */
  readonly shared: number
}
