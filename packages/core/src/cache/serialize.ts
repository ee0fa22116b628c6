/** Writes a cache: see file-format.ts. */
import { sha256 } from '@noble/hashes/sha2.js'
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, ModelShape, Ready } from '../contract'
import {
  fingerprintOf,
  type Header,
  type LaneRecord,
  MAGIC,
  modelKey,
  type PartRecord,
  type TensorRecord,
  VERSION,
} from './file-format'
import type { Lane } from './lane'
import type { LayerCache } from './layer'
import type { Page } from './page'
import type { PartStore } from './part-store'
import { ZONES } from './stored-rows'

export async function* serializeCache(
  model: ModelShape,
  ready: Ready,
  layers: readonly LayerCache[],
  tokens: readonly number[],
  settledTokens: number,
): AsyncGenerator<Uint8Array> {
  const tensors: (tf.Tensor | HostTensor)[] = []
  const record = (t: tf.Tensor | HostTensor): TensorRecord => {
    tensors.push(t)
    const dtype =
      'values' in t ? (t.values instanceof Int32Array ? 'int32' : 'float32') : (t.dtype as TensorRecord['dtype'])
    return { shape: t.shape, dtype }
  }
  const recordAll = (all: Readonly<Record<string, tf.Tensor | HostTensor>>) =>
    Object.fromEntries(Object.entries(all).map(([name, t]) => [name, record(t)]))
  const pages = new Map<Page, number>()
  const pageNumber = (page: Page): number => {
    const known = pages.get(page)
    if (known !== undefined) return known
    // What a page was fitted with comes before it.
    if (page.fitted) pageNumber(page.fitted)
    pages.set(page, pages.size)
    return pages.size - 1
  }
  const part = (store: PartStore): PartRecord => ({
    views: ZONES.flatMap((zone) =>
      store.zones[zone].map((v) => ({ zone, page: pageNumber(v.page), from: v.from, rows: v.rows, shift: v.shift })),
    ),
    fitted: store.fitted ? pageNumber(store.fitted) : null,
    kept: store.kept.tensor ? record(store.kept.tensor) : null,
  })
  const laneRecord = (lane: Lane): LaneRecord => ({
    keys: part(lane.keys),
    values: part(lane.values),
    gathered: lane.positions.state.gathered ? record(lane.positions.state.gathered) : null,
    runs: lane.positions.state.runs,
    highest: lane.positions.state.highest,
    shift: lane.shift,
    dead: lane.live?.map((row) => Array.from(row.keys()).filter((i) => row[i] === 0)) ?? null,
    columns: recordAll(Object.fromEntries(lane.columns)),
  })
  const layerRecords = layers.map((l) => ({
    lanes: l.lanes.map(laneRecord),
    ring: l.ring?.state ? record(l.ring.state) : null,
    recall: l.recall.map((index) =>
      index.blocks.map((block, i) => ({ rows: index.sizes[i] ?? 0, tensors: recordAll(block) })),
    ),
    memory: l.memory,
  }))
  const header: Header = {
    model: modelKey(model),
    compressor: fingerprintOf(ready),
    tokens,
    settledTokens,
    layers: layerRecords,
    pages: [...pages.keys()].map((p) => ({
      tensors: recordAll(p.tensors),
      host: p.host ? recordAll(p.host) : null,
      capacity: p.capacity,
      used: p.used,
      sealed: p.sealed,
      rowWise: p.rowWise,
      fitted: p.fitted ? pageNumber(p.fitted) : null,
    })),
  }
  const json = new TextEncoder().encode(JSON.stringify(header))
  const start = new Uint8Array(MAGIC.length + 8 + json.length)
  start.set(MAGIC)
  const view = new DataView(start.buffer)
  view.setUint32(MAGIC.length, VERSION, true)
  view.setUint32(MAGIC.length + 4, json.length, true)
  start.set(json, MAGIC.length + 8)
  const digest = sha256.create()
  digest.update(start)
  yield start
  for (const t of tensors) {
    const data = 'values' in t ? t.values : await t.data()
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()
    digest.update(bytes)
    yield bytes
  }
  yield digest.digest()
}
