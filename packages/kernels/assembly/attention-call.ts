// The record of one attention call and the record of one segment, as int32 written by src/paged-attention/wasm.ts and src/segment-record.ts.

/** How a segment's rows are stored. */
export const enum Kind { f32 = 0, f16 = 1, channels = 2, tokens = 3, codebook = 4 }

/** Rows a tile holds at most. */
export const TILE: i32 = 64
/** Floats between the score rows of a tile: the tile and room for writes of whole vectors past it. */
export const SCORE_STRIDE: i32 = 68
/** Bytes of a call; addresses of query variants follow it. */
export const CALL_BYTES: usize = 208
/** Bytes of a segment. */
export const SEGMENT_BYTES: usize = 144
/** Where the map of a block lies behind the table that turns a byte of codes into four channels: the table's address, padding, 256 vectors. */
export const MAP_AT: i32 = 16 + 4096
/** Bytes of that table and of a map: its address, padding, 64 rows of 64 floats, and another row. */
export const LOOKUP_BYTES: i32 = MAP_AT + 16 + 65 * 256

@unmanaged
export class Call {
  kvHeads: i32
  group: i32
  n: i32
  keyDim: i32
  valueDim: i32
  total: i32
  scale: f32
  causal: i32
  /** int32 [kvHeads or 1, total], or 0 */
  live: u32
  /** f32 [queryHeads, n, valueDim] */
  output: u32
  /** f32 [queryHeads, n], or 0 */
  logSumExp: u32
  keys: u32
  keyCount: i32
  values: u32
  valueCount: i32
  variants: i32
  scratch: u32
  /** attentionMass only: f32 [queryHeads, total], and 1 for the maximum instead of the sum */
  mass: u32
  largest: i32
  /** Unrotated keys: f32 [maxPositions, pairs], int32 [kvHeads or 1, total]; 0 when there are none */
  cos: u32
  sin: u32
  positions: u32
  pairs: i32
  maxPositions: i32
  /** Hadamard block of key codes that a rotated query reads, and of value codes that are summed up rotated; 0 for none */
  keyBlock: i32
  valueBlock: i32
  /** Written: 1 when a position was outside the tables */
  wrongPosition: i32
  /** Elements from the live marks, and from the positions, of a KV head to those of the next; 0 when heads share them */
  liveHead: i32
  positionHead: i32
  /** Rows that each query head reads: int32 [queryHeads + 1] where the lists start, then the lists, ascending; 0 when all are read */
  lists: u32

  // Filled while the call runs: scratch of the current chunk.
  /** Query heads of a KV head that are worked on, from `firstMember` on: all, or one that reads a list */
  members: i32
  firstMember: i32
  /** f32 [rows] largest scores and sums so far; int32 [TILE] mask; f32 [rows, SCORE_STRIDE] scores */
  maxima: u32
  totals: u32
  mask: u32
  scores: u32
  /** f32 [rows, padded valueDim], `sumsStride` bytes apart */
  sums: u32
  sumsStride: u32
  /** f32 [variants, rows, padded keyDim]; the second after the Hadamard transform of each block */
  query: u32
  rotatedQuery: u32
  tile: u32
  /** Second tile, for lines turned to rows */
  turned: u32
  codeScratch: u32
  keyLookup: u32
  valueLookup: u32
  /** Bytes from an output row to its rotated part */
  rotatedOutput: u32
  /** Rows that will be read next: brought into the cache while the current ones are worked on; 0 for none */
  next: u32
  nextBytes: u32
  /** Rows already brought into the cache */
  touched: u32
  /** What those loads read is added here, so that the compiler does not leave them out */
  sink: i32
  /** f32 [rows, padded dim]: queries, or sums, of rows whose pieces are multiplied by maps */
  mapped: u32
}

/** Addresses are of head 0; strides in bytes. A line is a row, or a channel when codes run along tokens. */
@unmanaged
export class Segment {
  kind: i32
  bits: i32
  /** Elements that share metadata; for codebooks: channels after which codes start anew */
  group: i32
  /** Affine codes: how their metadata lies (`Metadata`). Codebooks: 1 where it is f32 */
  wide: i32
  data: u32
  dataHead: u32
  dataLine: u32
  /** 0 for codes without scales */
  metadata: u32
  metadataHead: u32
  /** Of codebooks with halves: to the next two rows */
  metadataLine: u32
  from: i32
  rows: i32
  query: i32
  unrotated: i32
  // Codebooks only.
  vector: i32
  entries: i32
  table: u32
  tableHead: u32
  /** From the table of one code of a row to that of the next; 0 when all share one */
  tableUnit: u32
  hadamard: i32
  factor: f32
  /** KV heads that read one head of the page */
  share: i32
  /** 1: the page's rows hold all heads side by side */
  merged: i32
  /** Entries are scaled and moved: 1 by range and offset of the row, whose halves or floats are the metadata, 2 by those of each channel, 3 by maps */
  ranged: i32
  /** f32: ranges of the channels of a page's row, then their offsets, `rangesLine` bytes on; the heads of a page follow each other, or share the row */
  ranges: u32
  /** With maps: channels of a piece instead */
  rangesLine: u32
  /** Exact numbers of a row that stand in place of what its codes say, 0 for none; and their channels, `placeBytes` bytes each, rising */
  room: i32
  outliers: u32
  outliersLine: u32
  places: u32
  placesLine: u32
  placeBytes: i32
  /** Matrices [piece, piece] of blocks of `block` rows, whose scales are a line of metadata */
  maps: u32
  mapsHead: u32
  mapsLine: u32
  block: i32
}

/** Forgets what the look-up was made of. */
// @ts-ignore: decorator
@inline
export function clearLookup(lookup: usize): void {
  store<u32>(lookup, 0)
  store<u32>(lookup + MAP_AT, 0)
}

// @ts-ignore: decorator
@inline
export function segmentAt(table: usize, index: i32): Segment {
  return changetype<Segment>(table + <usize>index * SEGMENT_BYTES)
}

/** The head of a segment's page that KV head `head` reads. */
// @ts-ignore: decorator
@inline
export function pageHead(segment: Segment, head: i32): i32 {
  return segment.share == 1 ? head : head / segment.share
}

// @ts-ignore: decorator
@inline
export function pad(size: i32, unit: i32): i32 {
  return (size + unit - 1) & ~(unit - 1)
}
