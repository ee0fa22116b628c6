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

/** Tensors that are held, written and freed together. */
export class Page {
  /** Caches (this one and its forks) that hold this page. */
  private owners = 1
  readonly tensors: Tensors
  /** Rows of a recall's host tier, in place of tensors: each `[heads, capacity, ...]`. */
  readonly host: Readonly<Record<string, HostTensor>> | null
  readonly capacity: number
  readonly layout: PageLayout
  /** Sealed rows, in contrast to exact ones (which are dense too). */
  readonly sealed: boolean
  /** True: rows gather one by one. False: rows live and die as a block. */
  readonly rowWise: boolean
  /** Which rows of a block are exempt from its transform, per head `[heads, m]`, -1 for none; the tensor `exempt.index` in host memory. */
  readonly exempt: Int32Array | null
  /** What the transform of its rows was fitted on a prompt with; they are decoded with it whatever later prompts fit. */
  readonly fitted: Page | null
  /** Rows written so far; a page is full when it equals capacity. */
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

/** Rows `from .. from + rows` of a page. `shift`: how far their positions moved down (slot positions), 0 otherwise. */
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

/** Rows that share a row of a page's tensor: several for metadata whose halves are paired. */
export const unitOf = (name: string, unit: number): number => (name.startsWith('metadata') ? unit : 1)

/** The rows written so far in a page of its own. */
export function copyPage(page: Page): Page {
  const tensors = mapTensors(page.tensors, (t) => {
    const fresh = tf.zeros(t.shape, t.dtype)
    const [source, target] = [as3d(t), as3d(fresh)]
    // Metadata may hold several rows in one of its own.
    copyRows(target, 0, source, 0, Math.ceil((page.used * source.shape[1]) / page.capacity))
    tf.dispose([source, target])
    return fresh
  })
  const { capacity, layout, sealed, rowWise, used, fitted } = page
  return new Page({ tensors, capacity, layout, sealed, rowWise, used, fitted })
}

/** Tensors that one prompt fitted, counted and shared as pages are. */
export const fittedPage = (tensors: Tensors): Page =>
  new Page({ tensors, capacity: 1, layout: { kind: 'custom' }, sealed: false, rowWise: false, used: 1 })

export function tensorOf(page: Page, name: string): tf.Tensor {
  const tensor = page.tensors[name]
  if (!tensor) throw new Error(`page has no tensor ${name}`)
  return tensor
}
