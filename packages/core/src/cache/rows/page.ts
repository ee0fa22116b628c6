/** Pages: fixed-size tensors of rows that are held, shared by forks and freed together. Views name rows of a page. */
import { copyRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { AffineLayout, CodebookLayout, HostTensor, RowStore, Tensors } from '../../contract'
import { as3d, bytesOf, mapTensors } from '../../tensors'
import type { PageRecord, Recorder } from '../file/format'

export type PageLayout =
  | AffineLayout
  | CodebookLayout
  | { readonly kind: 'custom' }
  | { readonly kind: 'dense'; readonly store: RowStore }

/** Tensors that are written, held and freed together. */
export class Page {
  /** How many caches hold this page: the one that made it, and forks. */
  private owners = 1
  readonly tensors: Tensors
  /** The arrays `[heads, capacity, ...]` of a page in host memory, which has no tensors; null for others. */
  readonly host: Readonly<Record<string, HostTensor>> | null
  readonly capacity: number
  readonly layout: PageLayout
  /** Whether its rows are sealed. The layout does not say so: sealed rows may be dense, as exact ones are. */
  readonly sealed: boolean
  /** Whether rows can be gathered one by one. If not, they are a block that is freed whole. */
  readonly rowWise: boolean
  /**
   * Which rows of a block are exempt from its transform, per head `[heads, m]`, -1 for none. It is a copy of the tensor `exempt.index` in
   * host memory.
   */
  readonly exempt: Int32Array | null
  /** What the transform had fitted on a prompt when these rows were sealed. They are decoded with it, whatever later prompts fit. */
  readonly fitted: Page | null
  /** How many rows are written. A page is full when it equals `capacity`. */
  used: number
  readonly bytes: number

  constructor(p: {
    readonly tensors: Tensors
    readonly host?: Readonly<Record<string, HostTensor>> | null
    readonly capacity: number
    readonly layout: PageLayout
    readonly sealed: boolean
    readonly rowWise: boolean
    readonly used: number
    readonly exempt?: Int32Array | null
    readonly fitted?: Page | null
  }) {
    this.tensors = p.tensors
    this.host = p.host ?? null
    this.capacity = p.capacity
    this.layout = p.layout
    this.sealed = p.sealed
    this.rowWise = p.rowWise
    this.used = p.used
    this.exempt = p.exempt ?? null
    this.fitted = p.fitted ?? null
    this.bytes = Object.values(p.tensors).reduce((sum, t) => sum + bytesOf(t), 0)
  }
  get shared(): boolean {
    return this.owners > 1
  }
  get appendable(): boolean {
    return this.rowWise && this.host === null && this.used < this.capacity
  }
  get hostBytes(): number {
    return Object.values(this.host ?? {}).reduce((sum, t) => sum + t.values.byteLength, 0)
  }
  retain(): this {
    this.owners++
    return this
  }
  release(): void {
    if (--this.owners === 0) tf.dispose(Object.values(this.tensors))
  }

  record(to: Recorder): PageRecord {
    const { capacity, used, sealed, rowWise } = this
    return {
      tensors: to.tensors(this.tensors),
      host: this.host ? to.tensors(this.host) : null,
      capacity,
      used,
      sealed,
      rowWise,
      fitted: this.fitted ? to.page(this.fitted) : null,
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

/** How many rows share a row of a page's tensor: two for metadata with the halves of two rows in a word. */
export const unitOf = (name: string, unit: number): number => (name.startsWith('metadata') ? unit : 1)

/** Copies the rows that are written so far into a page of their own. */
export function copyPage(page: Page): Page {
  const tensors = mapTensors(page.tensors, (t) => {
    const fresh = tf.zeros(t.shape, t.dtype)
    const [source, target] = [as3d(t), as3d(fresh)]
    // One row of metadata may be that of two rows.
    copyRows(target, 0, source, 0, Math.ceil((page.used * source.shape[1]) / page.capacity))
    tf.dispose([source, target])
    return fresh
  })
  const { capacity, layout, sealed, rowWise, used, fitted } = page
  return new Page({ tensors, capacity, layout, sealed, rowWise, used, fitted })
}

/** Wraps tensors that a prompt fitted as a page, so that they are counted and shared as pages are. */
export const fittedPage = (tensors: Tensors): Page =>
  new Page({ tensors, capacity: 1, layout: { kind: 'custom' }, sealed: false, rowWise: false, used: 1 })

export function tensorOf(page: Page, name: string): tf.Tensor {
  const tensor = page.tensors[name]
  if (!tensor) throw new Error(`page has no tensor ${name}`)
  return tensor
}
