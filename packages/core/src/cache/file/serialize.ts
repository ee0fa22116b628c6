/** Writes a cache to a file; see format.ts. */
import { sha256 } from '@noble/hashes/sha2.js'
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, Lossless, ModelShape, Ready } from '../../contract'
import { mapRecord } from '../../tensors'
import type { LayerCache } from '../layer'
import { bytesIn, coded, formOf, type HostArray } from '../rows/host-array'
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
  readonly pages = new Numbered<PageRecord>()
  readonly fits = new Numbered<FittedRecord>()
  private readonly collected: Entry[] = []

  tensor(tensor: tf.Tensor | HostArray, lossless: Lossless | null = null): TensorRecord {
    const record = recordOf(tensor)
    this.collected.push({ tensor, record, lossless })
    return record
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

  /** Codes what stages code. How long it became is said in the records, and so in the header before it. */
  async code(): Promise<void> {
    for (const entry of this.collected) {
      const { tensor, record, lossless } = entry
      if (!lossless) continue
      const array = 'coded' in tensor ? tensor : coded(await hostOf(tensor), lossless)
      entry.tensor = array
      record.bytes = bytesIn(array)
    }
  }
  /** The bytes of every tensor, in order. */
  async *bytes(): AsyncGenerator<Uint8Array> {
    for (const { tensor } of this.collected) {
      if ('coded' in tensor) yield tensor.coded
      else {
        const { values } = await hostOf(tensor)
        yield new Uint8Array(values.buffer, values.byteOffset, values.byteLength).slice()
      }
    }
  }
}

interface Entry {
  tensor: tf.Tensor | HostArray
  readonly record: TensorRecord
  readonly lossless: Lossless | null
}

function recordOf(t: tf.Tensor | HostArray): TensorRecord {
  if ('values' in t) return formOf(t)
  return { shape: t.shape, dtype: t.dtype as TensorRecord['dtype'] }
}

const hostOf = async (t: tf.Tensor | HostTensor): Promise<HostTensor> =>
  'values' in t ? t : { shape: t.shape, values: (await t.data()) as HostTensor['values'] }

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
  const fits = to.fits.records(to)
  await to.code()
  const header: Header = {
    model: modelKey(model),
    compressor: fingerprintOf(ready),
    tokens,
    settledTokens,
    layers: layerRecords,
    pages,
    fits,
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
  for await (const bytes of to.bytes()) {
    digest.update(bytes)
    yield bytes
  }
  yield digest.digest()
}
