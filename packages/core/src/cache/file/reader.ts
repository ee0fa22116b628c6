/** Hands the tensors and pages of a cache file to the classes that restore themselves from their records. */
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, Lossless, Tensors } from '../../contract'
import { SerializedCacheError } from '../../errors'
import { mapRecord, upload } from '../../tensors'
import { Fitted } from '../rows/fitted'
import { decoded, type HostArray } from '../rows/host-array'
import { Page } from '../rows/page'
import { mapStored, perUnit, type StoredForm } from '../rows/stored'
import {
  type Header,
  type PageRecord,
  type StoredRecord,
  type TensorRecord,
  type TensorRecords,
  tensorsIn,
} from './format'

/** What a file does not say of a page, because the compressor says it: how sealed and exact rows are stored. */
export interface PageForms {
  readonly sealed: StoredForm
  readonly exact: StoredForm
}

export class Reader {
  private readonly offsets = new Map<TensorRecord, number>()
  private readonly made: tf.Tensor[] = []
  private readonly pages = new Map<number, Page>()
  private readonly fits = new Map<number, Fitted>()

  /** @throws SerializedCacheError unless the header's tensors are as long as the bytes */
  constructor(
    private readonly header: Header,
    private readonly bytes: Uint8Array,
  ) {
    let at = 0
    for (const record of tensorsIn(header)) {
      this.offsets.set(record, at)
      at += sizeOf(record)
      if (at > bytes.length)
        throw new SerializedCacheError(`a tensor of shape [${record.shape.join(', ')}] reaches beyond its end.`)
    }
    if (at !== bytes.length) throw new SerializedCacheError(`${bytes.length - at} bytes follow its last tensor.`)
  }

  host(record: TensorRecord, lossless: Lossless | null = null): HostTensor {
    return decoded(this.array(record, lossless), lossless)
  }
  /** Reads an array as it lies in the file. @throws SerializedCacheError unless it is coded where, and only where, a stage codes it */
  array(record: TensorRecord, lossless: Lossless | null): HostArray {
    const at = this.offsets.get(record) ?? 0
    const bytes = Uint8Array.from(this.bytes.subarray(at, at + sizeOf(record)))
    const { shape, dtype } = record
    if ((record.bytes !== undefined) !== (lossless !== null))
      throw new SerializedCacheError(`a tensor of shape [${shape.join(', ')}] is ${lossless ? 'not ' : ''}coded.`)
    if (lossless) return { shape, dtype, coded: bytes }
    return { shape, values: dtype === 'int32' ? new Int32Array(bytes.buffer) : new Float32Array(bytes.buffer) }
  }
  /** Reads a tensor, which is the caller's to free. When the file turns out to be wrong, all of them are freed. */
  tensor(record: TensorRecord, lossless: Lossless | null = null): tf.Tensor {
    const tensor = upload(this.host(record, lossless))
    this.made.push(tensor)
    return tensor
  }
  tensors(all: TensorRecords): Tensors {
    return mapRecord(all, (record) => this.tensor(record))
  }

  /** Page `number`. It is made when it is first asked for. */
  page(number: number, forms: PageForms): Page {
    const known = this.pages.get(number)
    if (known) return known
    const record = this.header.pages[number]
    if (!record) throw new SerializedCacheError(`it names page ${number}, which it does not hold.`)
    const { stored, host, exempt, capacity, used, sealed, rowWise, fitted } = record
    const form = sealed ? forms.sealed : forms.exact
    checkStored(record, number, form)
    const page = new Page({
      stored: stored && mapStored(stored, form, (t) => this.tensor(t, form.lossless)),
      host: host && mapStored(host, form, (t) => this.array(t, form.lossless)),
      exempt: exempt && {
        index: this.tensor(exempt.index),
        places: Int32Array.from(this.host(exempt.index).values),
        rows: exempt.rows.map((t) => this.tensor(t, form.lossless)),
      },
      form,
      capacity,
      used,
      sealed,
      rowWise,
      fitted: this.fitted(fitted),
    })
    this.pages.set(number, page)
    return page
  }
  /** What a prompt fitted, shared by the pages and parts that refer to it. */
  fitted(number: number | null): Fitted | null {
    if (number === null) return null
    const known = this.fits.get(number)
    if (known) return known
    const record = this.header.fits[number]
    if (!record) throw new SerializedCacheError(`it names fit ${number}, which it does not hold.`)
    const fitted = new Fitted(this.tensors(record.state))
    this.fits.set(number, fitted)
    return fitted
  }

  /** Ends the reading. What prompts fitted is held by the parts that refer to it, so the reader lets it go. */
  end(): void {
    for (const page of this.fits.values()) page.release()
  }
  /** Frees everything that was made, because the file is wrong. */
  dispose(): void {
    for (const t of this.made) t.dispose()
  }
}

/** @throws SerializedCacheError unless a page stores what its form says, row for row */
function checkStored({ stored, host, capacity, rowWise }: PageRecord, number: number, form: StoredForm): void {
  const rows: StoredRecord | null = stored ?? host
  if (!rows || (stored && host)) throw new SerializedCacheError(`page ${number} lies in no one place.`)
  const names = Object.keys(form.fields)
  const missing = names.find((name) => !rows.block[name])
  const strange = Object.keys(rows.block).find((name) => !names.includes(name))
  if (missing !== undefined) throw new SerializedCacheError(`page ${number} has no ${missing}.`)
  if (strange !== undefined) throw new SerializedCacheError(`page ${number} has ${strange}, which nothing reads.`)
  if (!rowWise) return
  mapStored(rows, form, ({ shape }, field) => {
    if (shape[1] !== Math.ceil(capacity / perUnit(field)))
      throw new SerializedCacheError(`a tensor of page ${number} is not ${capacity} rows long.`)
  })
}

/** How many bytes a tensor takes in the file. An element has 4, of either type. */
const sizeOf = ({ shape, bytes }: TensorRecord): number => bytes ?? shape.reduce((a, b) => a * b, 1) * 4
