/** Stages that change rows: along the sequence, to latents, to residuals, to packed bits. */
import type { AffineLayout, CodebookLayout } from '@kvloom/kernels'
import type { Tensor } from '@tensorflow/tfjs-core'
import type { Needs, Observed } from './observation'
import type { Part, Tensors } from './values'

/**
 * Replaces rows by fewer rows when the cache is full, by a fixed linear map along the sequence. Keys are stored before RoPE and rotated by
 * their slots when read.
 */
export interface Resample {
  /** How many first rows are never touched. */
  readonly sinks: number
  /** How many rows a full cache has, sinks included. */
  readonly capacity: number
  /** How many rows the `capacity - sinks` rows become. */
  readonly to: number
  /** Maps `[heads, capacity - sinks, dim]` f32 to `[heads, to, dim]`. It runs in tf.tidy. */
  apply(rows: Tensor): Tensor
  /** By how much it makes a row's largest magnitude larger at most; rows that would then not fit the store are refused. Default 1. */
  readonly gain?: number
}

/**
 * Maps rows to latents (`main`) and back. The way back is declared as data, `x = scale * (main . up) + bias`, so that core can choose how
 * to read: keys after RoPE by projecting the query (`q . up^T`), values by projecting the output (`output . up`), and everything else
 * by decoding a tile of rows at a time. All methods run in tf.tidy and dispose nothing.
 */
export interface Transform {
  /** Whether the map comes from the model, by an artifact, or is fitted on this prompt at its end. */
  readonly fitted: 'model' | 'prompt'
  readonly needs: Needs
  /** Heads and dim of the latents. `heads` divides the number of KV heads, and each head of `main` stands for a run of adjacent KV heads. */
  readonly main: { readonly heads: number; readonly dim: number }
  /** By how much a number of `main` may be larger than the largest of the rows. Rows whose latents would not fit are refused. Default 1. */
  readonly gain?: number
  /** The largest magnitude of a row that its own metadata (scales, which are f16) can hold. Default: any. */
  readonly largest?: number
  /** Whether rows that leave the window after the prompt are transformed too (default), or stay exact. */
  readonly afterPrompt?: boolean
  /**
   * Fits on the rows that are kept at the end of a prompt. What it returns is stored, counted as `perPrompt`, and given to `encode` and
   * `decoder`; tensors may be int32.
   */
  fitOnline?(rows: Tensor, seen: Observed): Tensors
  /**
   * Maps rows to what is stored of them. `members` are the rows `[heads, n, dim]` of the same tokens in every layer of the group,
   * ascending; one, unless `layers` names more.
   */
  encode(members: readonly Tensor[], state: Tensors): Encoded
  /** How layer number `member` of the group is decoded: `up` `[main.heads, main.dim, heads * dim / main.heads]`, and `bias` `[heads, 1, dim]`. */
  decoder(state: Tensors, member: number): { readonly up?: Tensor; readonly bias?: Tensor }
  /**
   * Layers that are compressed together, this one among them, ascending; their rows are sealed once the last of them has its own.
   * Absent, the layer is compressed alone. An empty list says that the stage does not act on this layer.
   */
  readonly layers?: readonly number[]
}

export interface Encoded {
  /** `[main.heads, n, main.dim]`: the latents, which later stages receive. */
  readonly main: Tensor
  /** One `[heads, n]` per layer of the group: what its decoded rows are multiplied by. */
  readonly scale?: readonly Tensor[]
  /** A mask `[heads, n]` with a 1 for every row that stays exact; heads may have different numbers of them. It is read when the rows are sealed. */
  readonly exempt?: Tensor
}

/** One thing that a predictor reads: a part of the layer before (`back: 1`), or of this layer (`back: 0`: its keys, when values are predicted). */
export interface PredictorSource {
  readonly back: 0 | 1
  readonly part: Part
}

/**
 * Guesses rows from reconstructions that the reader has anyway, so that only the residual is stored. Rows are merged over heads,
 * `[1, n, heads * dim]`.
 */
export interface Predictor {
  /** What it reads, in the order in which `predict` gets it. */
  readonly sources: readonly PredictorSource[]
  /**
   * Maps sources of `[n, heads * dim]` each to a prediction `[n, heads * dim]`. Row i must depend on rows i alone, and be summed in the
   * same order however many rows there are.
   */
  predict(sources: readonly Tensor[]): Tensor
  /** Whether reconstructions are kept between steps, counted as `workspace`, instead of being rebuilt at each. */
  readonly keepReconstruction: boolean
}

/** What a quantizer packs rows into: tensors `[heads, ...]` by names of its own. */
export type Block = Readonly<Record<string, Tensor>>
/** Says of a type that it is a block: every field is a tensor, or absent where the options need none. */
export type IsBlock<B> = { readonly [Name in keyof B]?: Tensor }

/** How one tensor of a block is stored. */
export interface BlockField {
  /** What the ledger counts its bytes as: codes are payload; scales, minima and norms are metadata. */
  readonly counts: 'payload' | 'metadata'
  /** How many rows share one row of the tensor: 2 where f16 numbers of two rows lie in one int32 word, `[heads, ceil(rows / 2), ...]`. Default 1. */
  readonly rowsPerUnit?: 1 | 2
}

/** A layout that only its quantizer can read. `fields` lists the tensors that `encode` returns. Core holds `encode` and restored files to it. */
export interface CustomLayout<B extends IsBlock<B> = Block> {
  readonly kind: 'custom'
  readonly fields: { readonly [Name in keyof B]: BlockField }
}

/**
 * Packs rows into bits and back: the last step that loses anything. `B` is its block, such as `{ codes: Tensor, metadata?: Tensor }`: what
 * `encode` makes of rows, and what `decode` is handed.
 */
export interface Quantizer<B extends IsBlock<B> = Block> {
  /**
   * How the block is to be read. Attention kernels read `affine` (`{ words, metadata }`) and `codebook` (`{ codes, metadata?, maps?,
   * outliers?, places? }`) as they are stored; `custom` is decoded a tile at a time.
   */
  readonly layout: AffineLayout | CodebookLayout | CustomLayout<B>
  /**
   * The codebook of a `codebook` layout, from `site.hold`: f32 `[entries, vector]`, or `[heads, dim / vector, entries, vector]` for one per
   * group of channels.
   */
  readonly table?: Tensor
  /** Ranges and offsets of the channels of a `codebook` layout of scale `channel`, from `site.hold`: f32 `[heads, 2, dim]`. */
  readonly ranges?: Tensor
  /**
   * Whether it takes all KV heads of a token as one row `[1, n, heads * dim]`. Attention kernels read such rows as they are stored where the codes of
   * a head begin at a whole byte (`readsMergedHeads` of the kernels).
   */
  readonly mergedHeads?: boolean
  /**
   * How many rows are quantized together. With 1, every tensor is `[heads, rows, ...]` and rows can be gathered one by one; with more, a
   * block's rows are sealed, masked and freed together.
   */
  readonly rowsPerGroup: number
  /** The largest magnitude that its metadata can hold. Rows with a larger one are refused when they are appended. Default any finite number. */
  readonly largest?: number
  /** What holds larger numbers, as a sentence for the refusal: `higgs({ metadata: 'f32' }) holds larger numbers.` Absent where no option does. */
  readonly largestCure?: string
  /** Bits per value by formula, for the report. Bytes are facts, and the ledger has them. */
  readonly theoreticalBitsPerValue: number
  /** Packs `[heads, n, dim]` f32, n a multiple of `rowsPerGroup`. */
  encode(rows: Tensor): B
  /** Unpacks a block into f32 `[heads, rows, dim]`. It defines what the bits mean: kernels that read them must agree with it. */
  decode(block: B, rows: number): Tensor
}
