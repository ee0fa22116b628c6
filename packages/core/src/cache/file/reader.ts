/** Hands the tensors and pages of a cache file to the classes that restore themselves from their records. */
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, Tensors } from '../../contract'
import { SerializedCacheError } from '../../errors'
import { mapRecord, upload } from '../../tensors'
import { fittedPage, Page, type PageLayout, unitOf } from '../rows/page'
import { type Header, type TensorRecord, type TensorRecords, tensorsIn } from './format'

/** What a file does not say of a page, because the compressor says it. */
export interface PageForm {
  /** The layouts of sealed and of exact rows. */
  readonly sealed: PageLayout
  readonly exact: PageLayout
  /** How many sealed rows share a row of metadata. */
  readonly unit: number
}

export class Reader {
  private readonly offsets = new Map<TensorRecord, number>()
  private readonly made: tf.Tensor[] = []
  private readonly pages = new Map<number, Page>()
  private readonly fits = new Map<number, Page>()

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

  host(record: TensorRecord): HostTensor {
    const at = this.offsets.get(record) ?? 0
    const { buffer } = Uint8Array.from(this.bytes.subarray(at, at + sizeOf(record)))
    return {
      shape: record.shape,
      values: record.dtype === 'int32' ? new Int32Array(buffer) : new Float32Array(buffer),
    }
  }
  /** Reads a tensor, which is the caller's to free. When the file turns out to be wrong, all of them are freed. */
  tensor(record: TensorRecord): tf.Tensor {
    const tensor = upload(this.host(record))
    this.made.push(tensor)
    return tensor
  }
  tensors(all: TensorRecords): Tensors {
    return mapRecord(all, (record) => this.tensor(record))
  }

  /** Page `number`. It is made when it is first asked for. */
  page(number: number, form: PageForm): Page {
    const known = this.pages.get(number)
    if (known) return known
    const { tensors, host, capacity, used, sealed, rowWise, fitted } = this.recordOf(number)
    const unit = sealed ? form.unit : 1
    for (const [name, { shape }] of Object.entries(host ?? tensors))
      if (rowWise && shape[1] !== Math.ceil(capacity / unitOf(name, unit)))
        throw new SerializedCacheError(`${name} of page ${number} is not ${capacity} rows long.`)
    const index = tensors['exempt.index']
    const page = new Page({
      tensors: this.tensors(tensors),
      host: host && mapRecord(host, (record) => this.host(record)),
      capacity,
      used,
      sealed,
      rowWise,
      layout: sealed ? form.sealed : form.exact,
      exempt: index ? Int32Array.from(this.host(index).values) : null,
      fitted: this.fitted(fitted),
    })
    this.pages.set(number, page)
    return page
  }
  /** What a prompt fitted, shared by the pages and parts that refer to it. */
  fitted(number: number | null): Page | null {
    if (number === null) return null
    const known = this.fits.get(number)
    if (known) return known
    const page = fittedPage(this.tensors(this.recordOf(number).tensors))
    this.fits.set(number, page)
    return page
  }

  /** Ends the reading. What prompts fitted is held by the parts that refer to it, so the reader lets it go. */
  end(): void {
    for (const page of this.fits.values()) page.release()
  }
  /** Frees everything that was made, because the file is wrong. */
  dispose(): void {
    for (const t of this.made) t.dispose()
  }

  private recordOf(number: number) {
    const record = this.header.pages[number]
    if (!record) throw new SerializedCacheError(`it names page ${number}, which it does not hold.`)
    return record
  }
}

/** How many bytes an element takes, of either type. */
const sizeOf = ({ shape }: TensorRecord): number => shape.reduce((a, b) => a * b, 1) * 4
