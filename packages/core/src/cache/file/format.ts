/**
 * A cache as one file: magic, version, JSON header, raw tensors in the order of the header, and the SHA-256 of everything before. Numbers are
 * little-endian. Pages keep their layout, so restored bytes are the stored ones bit for bit. Each class of the cache gives its
 * record (`record(to)`) and takes it back (`restore(record, from)`); what a record looks like stands here.
 */
import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex } from '@noble/hashes/utils.js'
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, Json, Lossless, ModelShape, Ready } from '../../contract'
import type { HostArray } from '../rows/host-array'
import { listStored } from '../rows/stored'
import type { Zone } from '../rows/zones'

export const MAGIC = new TextEncoder().encode('KVLOOM\0\0')
export const VERSION = 4
export const DIGEST_BYTES = 32

/** A tensor of the file; its numbers follow the header. */
export interface TensorRecord {
  readonly shape: readonly number[]
  readonly dtype: 'float32' | 'int32'
  /** How many bytes it takes in the file, where a lossless stage coded it. */
  bytes?: number
}
export type TensorRecords = Readonly<Record<string, TensorRecord>>

/** What is stored of rows. */
export interface StoredRecord {
  readonly block: TensorRecords
  readonly scale: TensorRecord | null
}
export interface PageRecord {
  /** What lies on the device; null for a page in host memory. */
  readonly stored: StoredRecord | null
  readonly host: StoredRecord | null
  readonly exempt: { readonly index: TensorRecord; readonly rows: readonly TensorRecord[] } | null
  readonly capacity: number
  readonly used: number
  readonly sealed: boolean
  readonly rowWise: boolean
  /** The number of what the transform had fitted for its rows. */
  readonly fitted: number | null
}
/** What a transform fitted on a prompt. */
export interface FittedRecord {
  readonly state: TensorRecords
}
export interface PartRecord {
  readonly views: readonly {
    readonly zone: Zone
    /** The number of the page in the file's list. The layers of a group share pages. */
    readonly page: number
    readonly from: number
    readonly rows: number
    readonly shift: number
  }[]
  /** The number of what the last prompt fitted. */
  readonly fitted: number | null
  readonly kept: TensorRecord | null
}
export interface PositionsRecord {
  readonly gathered: TensorRecord | null
  readonly runs: readonly { readonly start: number; readonly rows: number }[]
  readonly highest: number
}
export interface LaneRecord extends PositionsRecord {
  readonly keys: PartRecord
  readonly values: PartRecord
  readonly shift: number
  /** The numbers of rows that are dropped but still held, per head. */
  readonly dead: readonly (readonly number[])[] | null
  readonly columns: TensorRecords
}
/** The blocks of a recall index. */
export type IndexRecord = readonly { readonly rows: number; readonly tensors: TensorRecords }[]
export interface LayerRecord {
  readonly lanes: readonly LaneRecord[]
  readonly ring: TensorRecord | null
  /** Hidden states that a stage looks back at; absent where none does. */
  readonly hidden?: TensorRecord
  /** The recall index of each lane. */
  readonly recall: readonly IndexRecord[]
  readonly memory: readonly Json[]
}
export interface Header {
  readonly model: string
  readonly compressor: string
  /** The ids of all tokens seen. */
  readonly tokens: readonly number[]
  /** How many tokens had been seen when something else than appending last happened to rows. */
  readonly settledTokens: number
  readonly layers: readonly LayerRecord[]
  readonly pages: readonly PageRecord[]
  readonly fits: readonly FittedRecord[]
}

/** Records are written to this. Tensors follow each other in the order in which they are handed in. */
export interface Recorder {
  /** `lossless` codes it, unless it is coded already. */
  tensor(t: tf.Tensor | HostArray, lossless?: Lossless | null): TensorRecord
  tensors(all: Readonly<Record<string, tf.Tensor | HostTensor>>): TensorRecords
  /** The number of a page in the file's list. */
  page(page: Recordable<PageRecord>): number
  /** The number of what was fitted, in a list of its own. */
  fitted(fitted: Recordable<FittedRecord>): number
}
export interface Recordable<R> {
  record(to: Recorder): R
}

/** The tensors of a file in the order in which they follow the header: lanes, rings and indexes layer by layer, pages, then what was fitted. */
export function* tensorsIn({ layers, pages, fits }: Header): Generator<TensorRecord> {
  for (const { lanes, ring, hidden, recall } of layers) {
    for (const { keys, values, gathered, columns } of lanes) {
      yield* [keys.kept, values.kept, gathered].filter((t) => t !== null)
      yield* Object.values(columns)
    }
    if (ring) yield ring
    if (hidden) yield hidden
    for (const { tensors } of recall.flat()) yield* Object.values(tensors)
  }
  for (const { stored, host, exempt } of pages) {
    for (const rows of [stored, host]) if (rows) yield* listStored(rows)
    if (exempt) yield* [exempt.index, ...exempt.rows]
  }
  for (const { state } of fits) yield* Object.values(state)
}

/** Identifies stages, options, windows and store. A file must agree with them to be restored. */
export const fingerprintOf = ({ compressor, artifacts }: Ready): string =>
  bytesToHex(
    sha256(
      new TextEncoder().encode(
        JSON.stringify([
          compressor.stages.map((s) => [
            s.kind,
            s.id,
            s.options,
            s.when,
            s.on ?? null,
            ...(s.tokenSets ? [s.tokenSets] : []),
          ]),
          windowJson(compressor.window),
          compressor.store ?? null,
          artifacts.map((a) => a.fingerprint),
        ]),
      ),
    ),
  )

const windowJson = (w: Ready['compressor']['window']) =>
  w ? JSON.parse(JSON.stringify(w, (_, v) => (v === Number.POSITIVE_INFINITY ? 'all' : v))) : null

export const modelKey = (m: ModelShape): string =>
  [m.fingerprint, m.layers, m.queryHeads, m.kvHeads, m.keyDim, m.valueDim].join('/')
