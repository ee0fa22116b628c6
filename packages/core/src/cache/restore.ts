/** Reads what serialize.ts wrote. */
import { sha256 } from '@noble/hashes/sha2.js'
import * as tf from '@tensorflow/tfjs-core'
import type { KVCache, ModelShape, Ready } from '../contract'
import { SerializedCacheError } from '../errors'
import { cacheOf } from './cache'
import {
  DIGEST_BYTES,
  fingerprintOf,
  type Header,
  MAGIC,
  modelKey,
  type PartRecord,
  type TensorRecord,
  VERSION,
} from './file-format'
import { LayerCache } from './layer'
import { Account, Page } from './page'
import type { PartStore } from './part-store'
import { planLayer } from './plan'

/**
 * Restores a cache from the bytes of `serialize()`.
 * @throws SerializedCacheError when damaged, of another version, model or compressor.
 */
export function restoreCache(model: ModelShape, ready: Ready, file: Uint8Array): KVCache {
  const at = MAGIC.length + 8
  if (file.length < at + DIGEST_BYTES || MAGIC.some((b, i) => file[i] !== b))
    throw new SerializedCacheError('it is no kvloom cache file, or it was cut short.')
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const version = view.getUint32(MAGIC.length, true)
  if (version !== VERSION) throw new SerializedCacheError(`its version is ${version}, this kvloom reads ${VERSION}.`)
  const body = file.subarray(0, file.length - DIGEST_BYTES)
  const stored = file.subarray(file.length - DIGEST_BYTES)
  if (sha256(body).some((b, i) => stored[i] !== b))
    throw new SerializedCacheError('its checksum does not match; the file is damaged or cut short.')
  const headerBytes = view.getUint32(MAGIC.length + 4, true)
  const header = JSON.parse(new TextDecoder().decode(body.subarray(at, at + headerBytes))) as Header
  if (header.model !== modelKey(model)) throw new SerializedCacheError('it belongs to another model.')
  if (header.compressor !== fingerprintOf(ready))
    throw new SerializedCacheError('it was made by another compressor or other options.')
  let offset = at + headerBytes
  const tensor = (r: TensorRecord): tf.Tensor => {
    const bytes = r.shape.reduce((a, b) => a * b, 1) * 4
    const buffer = Uint8Array.from(body.subarray(offset, offset + bytes)).buffer
    offset += bytes
    return tf.tensor(
      r.dtype === 'int32' ? new Int32Array(buffer) : new Float32Array(buffer),
      r.shape as number[],
      r.dtype,
    )
  }
  const tensorsOf = (all: Readonly<Record<string, TensorRecord>>) =>
    Object.fromEntries(Object.entries(all).map(([name, r]) => [name, tensor(r)]))
  const part = (store: PartStore, r: PartRecord): void => {
    const pages = r.pages.map((p) => {
      const layout =
        p.sealed && store.quantizer ? store.quantizer.layout : ({ kind: 'dense', store: store.store } as const)
      const rowWise = !p.sealed || store.quantizer?.rowsPerGroup === 1
      return new Page(tensorsOf(p.tensors), p.capacity, layout, rowWise, p.used)
    })
    for (const v of r.views) {
      const page = pages[v.page]
      if (page) store.restore(v.zone, { page, from: v.from, rows: v.rows, shift: v.shift })
    }
  }
  const account = new Account()
  const layers = header.layers.map((record, l) => {
    const layer = new LayerCache(planLayer(model, ready, l), account)
    record.lanes.forEach((r, i) => {
      const lane = layer.lanes[i]
      if (!lane) throw new SerializedCacheError(`layer ${l} holds more lanes than this compressor opens.`)
      part(lane.keys, r.keys)
      part(lane.values, r.values)
      lane.positions.restore(r.gathered ? (tensor(r.gathered) as tf.Tensor2D) : null, r.runs)
      lane.shift = r.shift
      lane.live =
        r.dead?.map((dead) => {
          const row = new Int32Array(lane.rows).fill(1)
          for (const i of dead) row[i] = 0
          return row
        }) ?? null
      for (const [name, column] of Object.entries(r.columns)) lane.setColumn(name, tensor(column) as tf.Tensor2D)
    })
    if (record.ring) layer.ring?.replace(tensor(record.ring) as tf.Tensor3D)
    return layer
  })
  return cacheOf(model, ready, { layers, account, tokensSeen: header.tokensSeen })
}
