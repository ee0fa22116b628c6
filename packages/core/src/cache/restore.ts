/** Reads a cache back: see file-format.ts. Nothing of the file is believed before it was checked; what was made is freed on failure. */
import { KernelInputError } from '@kvloom/kernels'
import { sha256 } from '@noble/hashes/sha2.js'
import type * as tf from '@tensorflow/tfjs-core'
import { type ModelOrShape, shapeGiven } from '../arguments'
import { checkArtifacts } from '../artifacts'
import type { HostTensor, KVCache, KVCompressor, ModelShape, Ready, Tensors } from '../contract'
import { KvloomError, OptionError, SerializedCacheError } from '../errors'
import { upload } from '../site'
import { cacheOf, openLayers, readyGiven } from './cache'
import {
  DIGEST_BYTES,
  fingerprintOf,
  type Header,
  type LaneRecord,
  MAGIC,
  modelKey,
  type PageRecord,
  type TensorRecord,
  VERSION,
} from './file-format'
import { headerOf } from './file-header'
import { unitOf } from './host-tier'
import type { Lane } from './lane'
import { Account, fittedPage, Page } from './page'
import type { PartStore } from './part-store'

/**
 * Restores a cache from the bytes of `serialize()`.
 * @param given the loaded model that the cache was of, or its shape
 * @param compressor with its artifacts (`ready()`) where it has any
 * @throws OptionError for anything else; SerializedCacheError when damaged, of another version, model or compressor; ArtifactMismatch
 */
export function restoreCache(given: ModelOrShape, compressor: Ready | KVCompressor, file: Uint8Array): KVCache {
  const model = shapeGiven('restoreCache', given)
  const ready = readyGiven('restoreCache', compressor)
  if (!(file instanceof Uint8Array))
    throw new OptionError('restoreCache', 'file', typeof file, 'the bytes that serialize() gave')
  checkArtifacts(model, ready)
  const { header, tensors } = open(model, ready, file)
  const account = new Account()
  const { layers, pool } = openLayers(model, ready, account)
  const body = new Body(tensors)
  const maker = new PageMaker(header.pages, body)
  try {
    if (header.layers.length !== layers.length)
      throw new SerializedCacheError(
        `it holds ${header.layers.length} layers, and this model's cache ${layers.length}.`,
      )
    // Tensors follow in the order in which the records were made: lanes, rings, indexes, then pages.
    for (const [l, record] of header.layers.entries()) {
      const layer = layers[l]
      if (!layer || record.lanes.length !== layer.lanes.length || record.recall.length !== layer.recall.length)
        throw new SerializedCacheError(`layer ${l} is not divided as this compressor divides it.`)
      for (const [i, lane] of layer.lanes.entries()) restoreState(lane, record.lanes[i] as LaneRecord, body)
      if (record.ring) layer.ring?.replace(body.tensor(record.ring) as tf.Tensor3D)
      for (const [i, blocks] of record.recall.entries())
        for (const block of blocks) layer.recall[i]?.add(body.tensors(block.tensors), block.rows)
      layer.memory = [...record.memory]
    }
    maker.readAll()
    for (const [l, record] of header.layers.entries())
      for (const [i, lane] of (layers[l]?.lanes ?? []).entries())
        restoreRows(lane, record.lanes[i] as LaneRecord, maker)
    body.end()
    maker.giveUp()
    return cacheOf(model, ready, { layers, pool, account, tokens: header.tokens, settledTokens: header.settledTokens })
  } catch (error) {
    for (const layer of layers) layer.dispose()
    pool.release()
    body.dispose()
    if (error instanceof KvloomError && !(error instanceof KernelInputError)) throw error
    throw new SerializedCacheError(`its contents do not fit this cache (${messageOf(error)}).`)
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** The checked header and the bytes of the tensors. */
function open(model: ModelShape, ready: Ready, file: Uint8Array): { header: Header; tensors: Uint8Array } {
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
  const end = at + view.getUint32(MAGIC.length + 4, true)
  if (end > body.length) throw new SerializedCacheError('its header is longer than the file.')
  const header = headerOf(body.subarray(at, end))
  if (header.model !== modelKey(model)) throw new SerializedCacheError('it belongs to another model.')
  if (header.compressor !== fingerprintOf(ready))
    throw new SerializedCacheError('it was made by another compressor or other options.')
  return { header, tensors: body.subarray(end) }
}

/** The tensors of a file, in their order. */
class Body {
  private offset = 0
  private readonly made: tf.Tensor[] = []
  constructor(private readonly bytes: Uint8Array) {}

  host({ shape, dtype }: TensorRecord): HostTensor {
    const bytes = shape.reduce((a, b) => a * b, 1) * 4
    if (bytes > this.bytes.length - this.offset)
      throw new SerializedCacheError(`a tensor of shape [${shape.join(', ')}] reaches beyond its end.`)
    const { buffer } = Uint8Array.from(this.bytes.subarray(this.offset, this.offset + bytes))
    this.offset += bytes
    return { shape, values: dtype === 'int32' ? new Int32Array(buffer) : new Float32Array(buffer) }
  }
  tensor(record: TensorRecord): tf.Tensor {
    const tensor = upload(this.host(record))
    this.made.push(tensor)
    return tensor
  }
  tensors(all: Readonly<Record<string, TensorRecord>>): Tensors {
    return Object.fromEntries(Object.entries(all).map(([name, record]) => [name, this.tensor(record)]))
  }
  end(): void {
    if (this.offset !== this.bytes.length)
      throw new SerializedCacheError(`${this.bytes.length - this.offset} bytes follow its last tensor.`)
  }
  dispose(): void {
    for (const t of this.made) t.dispose()
  }
}

/** The pages of a file: each is made when a store that knows its layout first asks for it, what a prompt fitted before that. */
class PageMaker {
  private readonly read: { readonly tensors: Tensors; readonly host: Readonly<Record<string, HostTensor>> | null }[] =
    []
  private readonly made = new Map<number, Page>()
  private readonly fits = new Map<number, Page>()

  constructor(
    private readonly records: readonly PageRecord[],
    private readonly body: Body,
  ) {}

  readAll(): void {
    for (const { tensors, host } of this.records)
      this.read.push({
        tensors: this.body.tensors(tensors),
        host: host && Object.fromEntries(Object.entries(host).map(([name, r]) => [name, this.body.host(r)])),
      })
  }

  fitted(number: number | null): Page | null {
    if (number === null) return null
    const known = this.fits.get(number)
    if (known) return known
    const page = fittedPage(this.at(number).read.tensors)
    this.fits.set(number, page)
    return page
  }

  page(store: PartStore, number: number): Page {
    const known = this.made.get(number)
    if (known) return known
    const { read, record } = this.at(number)
    const { capacity, used, sealed, rowWise } = record
    const unit = sealed ? (store.codec?.rowsPerUnit ?? 1) : 1
    for (const [name, { shape }] of Object.entries(read.host ?? read.tensors))
      if (rowWise && shape[1] !== Math.ceil(capacity / unitOf(name, unit)))
        throw new SerializedCacheError(`${name} of page ${number} is not ${capacity} rows long.`)
    const index = read.tensors['exempt.index']
    const page = new Page({
      tensors: read.tensors,
      ...(read.host ? { host: read.host } : {}),
      capacity,
      used,
      sealed,
      rowWise,
      layout: sealed && store.codec ? store.codec.layout : { kind: 'dense', store: store.store },
      exempt: index ? (index.dataSync() as Int32Array).slice() : null,
      fitted: this.fitted(record.fitted),
    })
    this.made.set(number, page)
    return page
  }

  /** Whoever holds what a prompt fitted holds it by now. */
  giveUp(): void {
    for (const page of this.fits.values()) page.release()
  }

  private at(number: number) {
    const [read, record] = [this.read[number], this.records[number]]
    if (!read || !record) throw new SerializedCacheError(`it names page ${number}, which it does not hold.`)
    return { read, record }
  }
}

/** What a lane holds beside its rows. */
function restoreState(lane: Lane, record: LaneRecord, body: Body): void {
  for (const [store, part] of [
    [lane.keys, record.keys],
    [lane.values, record.values],
  ] as const)
    if (part.kept) store.kept.replace(body.tensor(part.kept) as tf.Tensor2D)
  const gathered = record.gathered && (body.tensor(record.gathered) as tf.Tensor2D)
  lane.positions.restore(gathered, record.runs, record.highest)
  for (const [name, column] of Object.entries(record.columns)) lane.setColumn(name, body.tensor(column) as tf.Tensor2D)
}

function restoreRows(lane: Lane, record: LaneRecord, maker: PageMaker): void {
  for (const [store, part] of [
    [lane.keys, record.keys],
    [lane.values, record.values],
  ] as const) {
    for (const { zone, page: number, from, rows, shift } of part.views) {
      const page = maker.page(store, number)
      if (from + rows > page.capacity)
        throw new SerializedCacheError(
          `it names rows ${from} to ${from + rows} of page ${number}, which has ${page.capacity}.`,
        )
      store.restore(zone, { page, from, rows, shift })
    }
    const fitted = maker.fitted(part.fitted)
    if (fitted) store.restoreFit(fitted)
  }
  const { rows } = lane
  const heads = lane.shape.heads.length
  const known = (record.gathered?.shape[1] ?? 0) + record.runs.reduce((n, run) => n + run.rows, 0)
  if (lane.values.rows !== rows || known !== rows)
    throw new SerializedCacheError(`a layer holds ${rows} keys, ${lane.values.rows} values and ${known} positions.`)
  for (const { shape } of Object.values(record.columns))
    if (shape[0] !== heads || shape[1] !== rows)
      throw new SerializedCacheError('a score column is not as long as its rows.')
  lane.shift = record.shift
  if (!record.dead) return
  if (record.dead.length !== heads || record.dead.some((row) => row.some((i) => i >= rows)))
    throw new SerializedCacheError('it marks rows as dropped that it does not hold.')
  lane.live = record.dead.map((dead) => {
    const row = new Int32Array(rows).fill(1)
    for (const i of dead) row[i] = 0
    return row
  })
}
