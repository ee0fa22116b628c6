/** What a cache holds, in bytes and rows. */

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

/** Rows of one part. A layer that reads another layer's rows holds none. */
export interface PartCensus {
  readonly exact: number
  readonly sealed: number
  /** By formula: bits per value of the model's own rows that a sealed row takes, shares of a layer group and metadata included. */
  readonly sealedBitsPerValue: number
}
