/**
 * A cache as one file: magic, version, JSON header, raw tensors in header order, SHA-256 of everything before.
 * Little-endian. Pages keep their layout, so restored bytes are the stored ones bit for bit.
 */
import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex } from '@noble/hashes/utils.js'
import type { Json, ModelShape, Ready } from '../contract'
import type { LayerCache } from './layer'
import type { Account } from './page'
import type { TablePool } from './pool'
import type { Zone } from './stored-rows'

export const MAGIC = new TextEncoder().encode('KVLOOM\0\0')
export const VERSION = 3
export const DIGEST_BYTES = 32

export interface TensorRecord {
  readonly shape: readonly number[]
  readonly dtype: 'float32' | 'int32'
}
export interface PageRecord {
  readonly tensors: Readonly<Record<string, TensorRecord>>
  /** Rows in host memory in place of tensors. */
  readonly host: Readonly<Record<string, TensorRecord>> | null
  readonly capacity: number
  readonly used: number
  readonly sealed: boolean
  readonly rowWise: boolean
  /** Number of the page, an earlier one, that holds what its rows were fitted with. */
  readonly fitted: number | null
}
export interface PartRecord {
  readonly views: readonly {
    readonly zone: Zone
    /** Number in the file's list of pages: layers of a group share pages. */
    readonly page: number
    readonly from: number
    readonly rows: number
    readonly shift: number
  }[]
  /** Number of the page that holds what the last prompt fitted. */
  readonly fitted: number | null
  readonly kept: TensorRecord | null
}
export interface LaneRecord {
  readonly keys: PartRecord
  readonly values: PartRecord
  readonly gathered: TensorRecord | null
  readonly runs: readonly { readonly start: number; readonly rows: number }[]
  readonly highest: number
  readonly shift: number
  /** Row numbers that are dropped but still held, per head. */
  readonly dead: readonly (readonly number[])[] | null
  readonly columns: Readonly<Record<string, TensorRecord>>
}
export interface Header {
  readonly model: string
  readonly compressor: string
  /** Every token seen. */
  readonly tokens: readonly number[]
  /** Since so many tokens rows were only appended. */
  readonly settledTokens: number
  readonly pages: readonly PageRecord[]
  readonly layers: readonly LayerRecord[]
}
export interface LayerRecord {
  readonly lanes: readonly LaneRecord[]
  readonly ring: TensorRecord | null
  /** Blocks of the recall index per lane. */
  readonly recall: readonly (readonly {
    readonly rows: number
    readonly tensors: Readonly<Record<string, TensorRecord>>
  }[])[]
  readonly memory: readonly Json[]
}

export interface RestoredCache {
  readonly layers: readonly LayerCache[]
  readonly pool: TablePool
  readonly account: Account
  readonly tokens: readonly number[]
  /** Since so many tokens rows were only appended; default: all of them. */
  readonly settledTokens?: number
}

/** Identifies stages, options, windows and store: what a file must agree with to be restored. */
export const fingerprintOf = ({ compressor, artifacts }: Ready): string =>
  bytesToHex(
    sha256(
      new TextEncoder().encode(
        JSON.stringify([
          compressor.stages.map((s) => [s.kind, s.id, s.options, s.when, s.on ?? null]),
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
