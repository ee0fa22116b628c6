/** Writes a cache to a file; see format.ts. */
import { sha256 } from '@noble/hashes/sha2.js'
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, ModelShape, Ready } from '../../contract'
import { mapRecord } from '../../tensors'
import type { LayerCache } from '../layer'
import {
  type FittedRecord,
  fingerprintOf,
  type Header,
  MAGIC,
  modelKey,
  type PageRecord,
  type Recordable,
  type Recorder,
  type TensorRecord,
  VERSION,
} from './format'

/** Collects tensors and pages in the order in which they are recorded. */
class Collector implements Recorder {
  readonly collected: (tf.Tensor | HostTensor)[] = []
  readonly pages = new Numbered<PageRecord>()
  readonly fits = new Numbered<FittedRecord>()

  tensor(t: tf.Tensor | HostTensor): TensorRecord {
    this.collected.push(t)
    const dtype =
      'values' in t ? (t.values instanceof Int32Array ? 'int32' : 'float32') : (t.dtype as TensorRecord['dtype'])
    return { shape: t.shape, dtype }
  }
  tensors(all: Readonly<Record<string, tf.Tensor | HostTensor>>) {
    return mapRecord(all, (t) => this.tensor(t))
  }
  page(page: Recordable<PageRecord>): number {
    return this.pages.numberOf(page)
  }
  fitted(fitted: Recordable<FittedRecord>): number {
    return this.fits.numberOf(fitted)
  }
}

/** Things in the order in which they were first asked for. */
class Numbered<R> {
  private readonly numbers = new Map<Recordable<R>, number>()
  numberOf(one: Recordable<R>): number {
    const known = this.numbers.get(one)
    if (known !== undefined) return known
    this.numbers.set(one, this.numbers.size)
    return this.numbers.size - 1
  }
  records(to: Recorder): R[] {
    return [...this.numbers.keys()].map((one) => one.record(to))
  }
}

export async function* serializeCache(
  model: ModelShape,
  ready: Ready,
  layers: readonly LayerCache[],
  tokens: readonly number[],
  settledTokens: number,
): AsyncGenerator<Uint8Array> {
  const to = new Collector()
  const layerRecords = layers.map((layer) => layer.record(to))
  // Pages name what was fitted for them, so they come first.
  const pages = to.pages.records(to)
  const header: Header = {
    model: modelKey(model),
    compressor: fingerprintOf(ready),
    tokens,
    settledTokens,
    layers: layerRecords,
    pages,
    fits: to.fits.records(to),
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
  for (const t of to.collected) {
    const data = 'values' in t ? t.values : await t.data()
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()
    digest.update(bytes)
    yield bytes
  }
  yield digest.digest()
}
