/** Reads what serialize.ts wrote. */
import { sha256 } from '@noble/hashes/sha2.js'
import type * as tf from '@tensorflow/tfjs-core'
import { checkArtifacts } from '../calibrate'
import type { HostTensor, KVCache, ModelShape, Ready } from '../contract'
import { SerializedCacheError } from '../errors'
import { upload } from '../site'
import { cacheOf, openLayers } from './cache'
import { DIGEST_BYTES, fingerprintOf, type Header, MAGIC, modelKey, type TensorRecord, VERSION } from './file-format'
import { Account, Page } from './page'
import type { PartStore } from './part-store'

/**
 * Restores a cache from the bytes of `serialize()`.
 * @throws SerializedCacheError when damaged, of another version, model or compressor.
 */
export function restoreCache(model: ModelShape, ready: Ready, file: Uint8Array): KVCache {
  checkArtifacts(model, ready)
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
  const hostTensor = (r: TensorRecord): HostTensor => {
    const bytes = r.shape.reduce((a, b) => a * b, 1) * 4
    const buffer = Uint8Array.from(body.subarray(offset, offset + bytes)).buffer
    offset += bytes
    return { shape: r.shape, values: r.dtype === 'int32' ? new Int32Array(buffer) : new Float32Array(buffer) }
  }
  const tensor = (r: TensorRecord): tf.Tensor => upload(hostTensor(r))
  const tensorsOf = (all: Readonly<Record<string, TensorRecord>>) =>
    Object.fromEntries(Object.entries(all).map(([name, r]) => [name, tensor(r)]))
  const account = new Account()
  const { layers, pool } = openLayers(model, ready, account)
  // Tensors follow in the order in which the records were made: lanes, rings, indexes, then pages.
  const restored = header.layers.map((record, l) => {
    const layer = layers[l]
    if (!layer) throw new SerializedCacheError(`it holds a layer ${l}, which the model has not.`)
    const parts = record.lanes.map((r, i) => {
      const lane = layer.lanes[i]
      if (!lane) throw new SerializedCacheError(`layer ${l} holds more lanes than this compressor opens.`)
      for (const [store, part] of [
        [lane.keys, r.keys],
        [lane.values, r.values],
      ] as const) {
        if (Object.keys(part.state).length > 0) store.fit(tensorsOf(part.state))
        if (part.kept) store.kept.replace(tensor(part.kept) as tf.Tensor2D)
      }
      lane.positions.restore(r.gathered ? (tensor(r.gathered) as tf.Tensor2D) : null, r.runs, r.highest)
      for (const [name, column] of Object.entries(r.columns)) lane.setColumn(name, tensor(column) as tf.Tensor2D)
      return { lane, r }
    })
    if (record.ring) layer.ring?.replace(tensor(record.ring) as tf.Tensor3D)
    record.recall.forEach((blocks, i) => {
      for (const block of blocks) layer.recall[i]?.add(tensorsOf(block.tensors), block.rows)
    })
    layer.memory = [...record.memory]
    return { layer, parts }
  })
  const pages = header.pages.map((p) => {
    const tensors = tensorsOf(p.tensors)
    const host = p.host ? Object.fromEntries(Object.entries(p.host).map(([name, r]) => [name, hostTensor(r)])) : null
    return { record: p, tensors, host }
  })
  const made = new Map<number, Page>()
  const pageOf = (store: PartStore, number: number): Page => {
    const known = made.get(number)
    const from = pages[number]
    if (known) return known
    if (!from) throw new SerializedCacheError(`it names page ${number}, which it does not hold.`)
    const { capacity, used, sealed, rowWise } = from.record
    const index = from.tensors['exempt.index']
    const page = new Page({
      tensors: from.tensors,
      ...(from.host ? { host: from.host } : {}),
      capacity,
      used,
      sealed,
      rowWise,
      layout: sealed && store.codec ? store.codec.layout : { kind: 'dense', store: store.store },
      exempt: index ? (index.dataSync() as Int32Array).slice() : null,
    })
    made.set(number, page)
    return page
  }
  for (const { parts } of restored)
    for (const { lane, r } of parts) {
      for (const [store, part] of [
        [lane.keys, r.keys],
        [lane.values, r.values],
      ] as const)
        for (const v of part.views)
          store.restore(v.zone, { page: pageOf(store, v.page), from: v.from, rows: v.rows, shift: v.shift })
      lane.shift = r.shift
      lane.live =
        r.dead?.map((dead) => {
          const row = new Int32Array(lane.rows).fill(1)
          for (const i of dead) row[i] = 0
          return row
        }) ?? null
    }
  return cacheOf(model, ready, { layers, pool, account, tokens: header.tokens })
}
