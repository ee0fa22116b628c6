/** What a cache holds, in bytes and rows. */

/** How many bytes are held, by kind. Every number is a sum over tensors that exist, and `total` equals the growth of tf.memory().numBytes. */
export interface ByteLedger {
  /** Packed codes of sealed rows. */
  readonly payload: number
  /** Scales, minima, norms of sealed rows. */
  readonly metadata: number
  /** Exact rows of sinks and window that are in use. */
  readonly window: number
  /** Rows that are allocated and not in use: the rest of a page that is being filled, and dropped rows whose page is still held. */
  readonly slack: number
  /** What is remembered about rows: positions after an eviction, live masks, score columns, queries that a stage will ask for. */
  readonly state: number
  /** Recall indexes. */
  readonly index: number
  /** Reconstructions kept between steps. */
  readonly workspace: number
  /** What transforms fitted on a prompt. */
  readonly perPrompt: number
  /** Rows of a recall's host tier, as they lie there, coded where a stage codes them. They are not part of `total`, which is the device's. */
  readonly host: number
  /** Tables that belong to the model and that this cache holds: codebooks, maps, rotary tables for keys stored before RoPE. */
  readonly perModel: number
  readonly total: number
  /** The highest total since the cache was opened, with what an eviction holds for a moment. */
  readonly peak: number
  /** How many bytes of the total another cache, forked from this one or this one from it, holds too. */
  readonly shared: number
}

/** How many rows a layer holds, as a mean over KV heads; it may be fractional where the layer is ragged. */
export interface LayerCensus {
  readonly keys: PartCensus
  readonly values: PartCensus
  /** How many dropped rows are still held, because their block cannot be taken apart, or too few are dropped to be worth a copy. */
  readonly dead: number
  /** How many bytes the live rows take in the form they are stored in. */
  readonly liveBytes: number
  /** What page sizes alone may cost: the bytes of the largest page of each part and lane, summed. */
  readonly pageBytes: number
}

/** How many rows of one part are held. A layer that reads another layer's rows holds none. */
export interface PartCensus {
  readonly exact: number
  readonly sealed: number
  /** Bits per value of a sealed row by formula, metadata included; a layer group's bits are shared out among its layers. */
  readonly sealedBitsPerValue: number
}
