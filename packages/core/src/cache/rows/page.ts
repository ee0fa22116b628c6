/** Pages: fixed-size tensors of rows that are held, shared by forks and freed together. Views name rows of a page. */
import { copyRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import { as3d, bytesOf, disposeAll } from '../../tensors'
import type { PageRecord, Recorder } from '../file/format'
import { Owned } from '../owned'
import type { Fitted } from './fitted'
import { bytesIn, type HostArray } from './host-array'
import { listStored, mapStored, type Stored, type StoredForm, unitOf } from './stored'

/** The rows of a block that are exempt from its transform. They are stored as they came. */
export interface Exempt {
  /** Which rows, per head `[heads, m]`, -1 for none: int32 on the device. */
  readonly index: tf.Tensor
  /** The same in host memory. */
  readonly places: Int32Array
  /** The rows `[heads, m, ...]`, for each layer of the block's group, as exact rows are stored. */
  readonly rows: readonly tf.Tensor[]
}

/** Tensors that are written, held and freed together. */
export class Page extends Owned {
  /** What is stored of the rows; null for a page in host memory. */
  readonly stored: Stored<tf.Tensor> | null
  /** The same in host memory, for a page that lies there. */
  readonly host: Stored<HostArray> | null
  readonly form: StoredForm
  readonly capacity: number
  /** Whether its rows are sealed. The form does not say so: sealed rows may be dense, as exact ones are. */
  readonly sealed: boolean
  /** Whether rows can be gathered one by one. If not, they are a block that is freed whole. */
  readonly rowWise: boolean
  readonly exempt: Exempt | null
  /** What the transform had fitted on a prompt when these rows were sealed. They are decoded with it, whatever later prompts fit. */
  readonly fitted: Fitted | null
  /** How many rows are written. A page is full when it equals `capacity`. */
  used: number
  readonly bytes: number

  constructor(p: {
    readonly stored: Stored<tf.Tensor> | null
    readonly host?: Stored<HostArray> | null
    readonly form: StoredForm
    readonly capacity: number
    readonly sealed: boolean
    readonly rowWise: boolean
    readonly used: number
    readonly exempt?: Exempt | null
    readonly fitted?: Fitted | null
  }) {
    super()
    this.stored = p.stored
    this.host = p.host ?? null
    this.form = p.form
    this.capacity = p.capacity
    this.sealed = p.sealed
    this.rowWise = p.rowWise
    this.used = p.used
    this.exempt = p.exempt ?? null
    this.fitted = p.fitted ?? null
    this.bytes = this.tensors.reduce((sum, t) => sum + bytesOf(t), 0)
  }
  get appendable(): boolean {
    return this.rowWise && this.host === null && this.used < this.capacity
  }
  get hostBytes(): number {
    return this.host ? listStored(this.host).reduce((sum, t) => sum + bytesIn(t), 0) : 0
  }
  /** How many rows share a row of the tensor in which most of them do. */
  get unit(): number {
    return unitOf(this.form)
  }
  protected free(): void {
    disposeAll(this.tensors)
  }

  /** What it stores on the device. @throws Error for a page in host memory */
  get device(): Stored<tf.Tensor> {
    if (!this.stored) throw new Error('the page lies in host memory')
    return this.stored
  }
  /** Every tensor that it takes on the device. */
  get tensors(): readonly tf.Tensor[] {
    const rows = this.stored ? listStored(this.stored) : []
    return this.exempt ? [...rows, this.exempt.index, ...this.exempt.rows] : rows
  }

  record(to: Recorder): PageRecord {
    const { stored, host, capacity, used, sealed, rowWise, exempt } = this
    const { lossless } = this.form
    const record = (rows: Stored<tf.Tensor | HostArray>) => mapStored(rows, this.form, (t) => to.tensor(t, lossless))
    return {
      stored: stored && record(stored),
      host: host && record(host),
      exempt: exempt && { index: to.tensor(exempt.index), rows: exempt.rows.map((t) => to.tensor(t, lossless)) },
      capacity,
      used,
      sealed,
      rowWise,
      fitted: this.fitted ? to.fitted(this.fitted) : null,
    }
  }
}

/** Names rows `from .. from + rows` of a page. `shift` says how far their positions moved down, which they do where positions are slots. */
export interface View {
  readonly page: Page
  readonly from: number
  readonly rows: number
  readonly shift: number
}

/** Whether rows of a view can be copied on their own. */
export const isFree = (v: View): boolean => v.page.rowWise && v.page.host === null

/** Whether rows of two views may lie behind each other in one page. */
export const sameForm = (a: View, b: View): boolean => a.shift === b.shift && a.page.fitted === b.page.fitted

/** Copies the rows that are written so far into a page of their own. */
export function copyPage(page: Page): Page {
  const { capacity, form, sealed, rowWise, used, fitted } = page
  const stored = mapStored(page.device, form, (t) => {
    const fresh = tf.zeros(t.shape, t.dtype)
    const [source, target] = [as3d(t), as3d(fresh)]
    // One row of a tensor may be that of two rows.
    copyRows(target, 0, source, 0, Math.ceil((used * source.shape[1]) / capacity))
    tf.dispose([source, target])
    return fresh
  })
  return new Page({ stored, capacity, form, sealed, rowWise, used, fitted })
}

/** The tensor of a page of exact rows. */
export const exactTensor = (page: Page): tf.Tensor => page.device.block['rows'] as tf.Tensor
