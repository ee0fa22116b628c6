/** Writes a cache: see file-format.ts. */
import { sha256 } from '@noble/hashes/sha2.js'
import type * as tf from '@tensorflow/tfjs-core'
import type { ModelShape, Ready, Tensors } from '../contract'
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
import { type PartStore, ZONES } from './part-store'

export async function* serializeCache(
  model: ModelShape,
  ready: Ready,
  layers: readonly LayerCache[],
  tokensSeen: number,
): AsyncIterable<Uint8Array> {
  const tensors: tf.Tensor[] = []
  const record = (t: tf.Tensor): TensorRecord => {
    tensors.push(t)
    return { shape: t.shape, dtype: t.dtype as TensorRecord['dtype'] }
  }
  const recordAll = (all: Tensors) => Object.fromEntries(Object.entries(all).map(([name, t]) => [name, record(t)]))
  const part = (store: PartStore): PartRecord => {
    const pages = [...store.pages()]
    return {
      pages: pages.map((p) => ({
        tensors: recordAll(p.tensors),
        capacity: p.capacity,
        used: p.used,
        sealed: p.layout.kind !== 'dense',
      })),
      views: ZONES.flatMap((zone) =>
        store.zones[zone].map((v) => ({
          zone,
          page: pages.indexOf(v.page),
          from: v.from,
          rows: v.rows,
          shift: v.shift,
        })),
      ),
    }
  }
  const laneRecord = (lane: Lane): LaneRecord => ({
    keys: part(lane.keys),
    values: part(lane.values),
    gathered: lane.positions.state.gathered ? record(lane.positions.state.gathered) : null,
    runs: lane.positions.state.runs,
    shift: lane.shift,
    dead: lane.live?.map((row) => Array.from(row.keys()).filter((i) => row[i] === 0)) ?? null,
    columns: recordAll(Object.fromEntries(lane.columns)),
  })
  const header: Header = {
    model: modelKey(model),
    compressor: fingerprintOf(ready),
    tokensSeen,
    layers: layers.map((l) => ({ lanes: l.lanes.map(laneRecord), ring: l.ring?.state ? record(l.ring.state) : null })),
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
    const data = await t.data()
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()
    digest.update(bytes)
    yield bytes
  }
  yield digest.digest()
}
