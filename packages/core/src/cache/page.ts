/** Storage: fixed-size pages of tensors, counted, shared by forks; views name rows of a page. */
import { copyRows } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { AffineLayout, CodebookLayout, HostTensor, RowStore, Tensors } from '../contract'

/** Running sum of the bytes one cache holds; pages and tensors report to it. A page that several stores hold is counted once. */
export class Account {
  held = 0
  peak = 0
  private readonly holders = new Map<Page, number>()

  add(bytes: number): void {
    this.held += bytes
    if (this.held > this.peak) this.peak = this.held
  }
  hold(page: Page): Page {
    const holders = this.holders.get(page) ?? 0
    if (holders === 0) {
      this.add(page.bytes)
      if (page.fitted) this.share(page.fitted)
    }
    this.holders.set(page, holders + 1)
    return page
  }
  /** Holds a page that somebody else made: it is shared by count from the first time on. */
  share(page: Page): Page {
    return this.hold(this.holders.has(page) ? page : page.retain())
  }
  letGo(page: Page): void {
    const left = (this.holders.get(page) ?? 1) - 1
    if (left > 0) {
      this.holders.set(page, left)
      return
    }
    this.holders.delete(page)
    this.add(-page.bytes)
    page.release()
    if (page.fitted) this.letGo(page.fitted)
  }
  /** Every page held, once each. */
  get pages(): IterableIterator<Page> {
    return this.holders.keys()
  }
}

/** A tensor that a cache changes by replacing it: counted while held, freed when replaced. */
export class Held<T extends tf.Tensor> {
  private held: T | null = null
  constructor(private readonly account: Account) {}
  get tensor(): T | null {
    return this.held
  }
  get bytes(): number {
    return this.held ? bytesOf(this.held) : 0
  }
  replace(next: T | null): void {
    // Kept, since a replacement may happen inside a stage's tidy.
    if (next) this.account.add(bytesOf(tf.keep(next)))
    this.account.add(-this.bytes)
    this.held?.dispose()
    this.held = next
  }
}

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
    readonly host?: Readonly<Record<string, HostTensor>>
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
}

/** Rows `from .. from + rows` of a page. `shift`: how far their positions moved down (slot positions), 0 otherwise. */
export interface View {
  readonly page: Page
  from: number
  rows: number
  shift: number
}

/** Bytes of a tensor as tf.memory() counts them. */
export const bytesOf = (t: tf.Tensor): number => t.size * tf.util.bytesPerElement(t.dtype)

export const mapTensors = (tensors: Tensors, change: (t: tf.Tensor) => tf.Tensor): Tensors =>
  Object.fromEntries(Object.entries(tensors).map(([name, t]) => [name, change(t)]))

export const emptyLike = (t: tf.Tensor, rows: number): tf.Tensor =>
  tf.zeros([t.shape[0] ?? 0, rows, ...t.shape.slice(2)], t.dtype)

/** `[heads, rows, ...]` with everything behind the rows flattened; shares the data. */
export const as3d = (t: tf.Tensor): tf.Tensor3D => tf.reshape(t, [t.shape[0] ?? 0, t.shape[1] ?? 0, -1])

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
  return new Page({
    tensors,
    capacity: page.capacity,
    layout: page.layout,
    sealed: page.sealed,
    rowWise: page.rowWise,
    used: page.used,
    fitted: page.fitted,
  })
}

/** Tensors that one prompt fitted, counted and shared as pages are. */
export const fittedPage = (tensors: Tensors): Page =>
  new Page({ tensors, capacity: 1, layout: { kind: 'custom' }, sealed: false, rowWise: false, used: 1 })

export function tensorOf(page: Page, name: string): tf.Tensor {
  const tensor = page.tensors[name]
  if (!tensor) throw new Error(`page has no tensor ${name}`)
  return tensor
}
