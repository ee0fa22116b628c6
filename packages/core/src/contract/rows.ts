/** Stages that change rows: along the sequence, to latents, to residuals, to packed bits. */
import type { AffineLayout, CodebookLayout } from '@kvloom/kernels'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { Needs, Observed } from './observation'
import type { Part, Tensors } from './values'

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
