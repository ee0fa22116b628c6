/**
 * The rows of one part (keys or values) of one lane, as data: views in zones, the form in which they are stored, what a prompt fitted.
 * What is done with rows stands in other files: write.ts appends and seals, read.ts decodes, segments.ts hands them to the attention
 * kernels, gather.ts drops and copies, host.ts moves them to host memory.
 */
import type * as tf from '@tensorflow/tfjs-core'
import type { Lossless, RowRange, RowStore, Tensors, Window } from '../../contract'
import { SerializedCacheError } from '../../errors'
import { copyOf } from '../../tensors'
import { type Account, Held } from '../account'
import type { Codec } from '../codec'
import type { PartRecord, Recorder } from '../file/format'
import type { PageForms, Reader } from '../file/reader'
import { Fitted } from './fitted'
import { copyPage, type Page, type View } from './page'
import { denseForm, type StoredForm } from './stored'
import { Views } from './views'
import { ZONES, type Zone } from './zones'

/** A window of exact rows that will be sealed lies in about so many pages. They are small, so that little of a page is ever idle. */
const WINDOW_PAGES = 16
const WINDOW_PAGE_ROWS = { least: 4, most: 16 } as const
/** A page of exact rows that stay exact has so many rows. */
const DENSE_PAGE_ROWS = 64
/**
 * A page of sealed rows that can be gathered one by one has so many rows: fewer where tokens are dropped at any time, since such caches
 * stay small.
 */
const SEALED_PAGE_ROWS = { usual: 32, dropping: 16 } as const

/** Rows of a page where `rows` rows lie in as few pages of a bounded size as they need, all of one size. */
const evenPages = (rows: number): number =>
  Math.max(1, Math.ceil(rows / Math.max(1, Math.ceil(rows / DENSE_PAGE_ROWS))))

/** How the rows of a part are stored. */
export interface RowForm {
  readonly heads: number
  readonly dim: number
  readonly store: RowStore
  readonly sinks: number
  readonly window: Window
  readonly codec: Codec | null
  /** What codes exact rows when they leave the device; a codec has its own for sealed ones. */
  readonly lossless: Lossless | null
  /** Whether tokens are dropped at any time. Blocks are then sealed as small as the codec allows. */
  readonly dropsAlways: boolean
}

export class Rows {
  readonly views: Views
  /** What the transform fitted on the last prompt, counted as `perPrompt`; null until then. */
  fitted: Fitted | null = null
  /** The reconstructions `[sealed rows, width]`, where a predictor wants them held from step to step. */
  readonly kept: Held<tf.Tensor2D>
  /** How exact rows are stored. */
  readonly exactForm: StoredForm
  /** Whether rows of this part are ever sealed. */
  readonly seals: boolean
  /** How many rows a page of each zone has. A block has a page of its own size. */
  readonly pageRows: Readonly<Record<Zone, number>>

  constructor(
    readonly form: RowForm,
    readonly account: Account,
  ) {
    const { codec, window, sinks, dropsAlways } = form
    this.views = new Views(account)
    this.exactForm = denseForm(form.store, form.lossless)
    this.kept = new Held(account)
    this.seals = codec !== null && window.recent !== Number.POSITIVE_INFINITY
    const { least, most } = WINDOW_PAGE_ROWS
    const share = window.recent > 0 || dropsAlways ? Math.ceil(window.recent / WINDOW_PAGES) : most
    this.pageRows = {
      sink: evenPages(sinks),
      sealed: dropsAlways ? SEALED_PAGE_ROWS.dropping : SEALED_PAGE_ROWS.usual,
      window: this.seals ? Math.min(most, Math.max(least, share)) : DENSE_PAGE_ROWS,
    }
  }

  get count(): number {
    return this.views.rows
  }
  /** How many rows, from the first on, nothing will change any more: up to the last sealed one where rows are sealed, else all. */
  get settled(): number {
    return this.seals ? this.views.zoneEnds[1] : this.count
  }
  /** Whether no row is sealed, so that every row can be gathered alone. */
  get exact(): boolean {
    return this.views.rowsIn('sealed') === 0
  }
  /** Whether attention kernels can read every stored row as it is. */
  get fused(): boolean {
    return (this.exact || (this.form.codec?.fused ?? false)) && !this.views.onHost
  }
  /** What the transform has fitted for the rows that are sealed now. */
  get state(): Tensors {
    return this.fitted?.state ?? {}
  }
  /** Whether a view reaches the end of what its page holds, but for the rest of a unit. */
  ends(v: View): boolean {
    const { unit, used } = v.page
    return Math.ceil((v.from + v.rows) / unit) * unit === used
  }
  /** The bounds of blocks, whose rows can only be freed together. */
  *blocks(): Generator<RowRange> {
    let at = 0
    for (const v of this.views.all()) {
      if (!v.page.rowWise) yield { start: at, end: at + v.rows }
      at += v.rows
    }
  }

  /** Takes over what this prompt fitted, for the rows that are sealed from now on. */
  fit(state: Tensors): void {
    const before = this.fitted
    this.fitted = this.account.hold(new Fitted(state))
    if (before) this.account.letGo(before)
  }

  /** Begins with the rows of another cache. Full pages are shared, and those that take more rows are copied. */
  adopt(from: Rows): void {
    // A page with a hole has several views, and is copied once for all of them.
    const copies = new Map<Page, Page>()
    for (const v of from.views.all()) if (v.page.appendable && this.ends(v)) copies.set(v.page, copyPage(v.page))
    if (from.fitted) this.fitted = this.account.share(from.fitted)
    for (const zone of ZONES)
      for (const v of from.views.in(zone)) {
        const copy = copies.get(v.page)
        if (copy) this.views.add(zone, { ...v, page: copy })
        else this.views.share(zone, v)
      }
    const kept = from.kept.tensor
    if (kept) this.kept.replace(copyOf(kept))
  }

  record(to: Recorder): PartRecord {
    return {
      views: this.views.record(to),
      fitted: this.fitted ? to.fitted(this.fitted) : null,
      kept: this.kept.tensor ? to.tensor(this.kept.tensor) : null,
    }
  }
  /** @throws SerializedCacheError */
  restore(record: PartRecord, file: Reader): void {
    if (record.kept) this.kept.replace(file.tensor(record.kept) as tf.Tensor2D)
    const forms: PageForms = { sealed: this.form.codec?.form ?? this.exactForm, exact: this.exactForm }
    for (const { zone, page: number, from, rows, shift } of record.views) {
      const page = file.page(number, forms)
      if (from + rows > page.capacity)
        throw new SerializedCacheError(
          `it names rows ${from} to ${from + rows} of page ${number}, which has ${page.capacity}.`,
        )
      this.views.add(zone, { page, from, rows, shift })
    }
    const fitted = file.fitted(record.fitted)
    if (fitted) this.fitted = this.account.share(fitted)
  }

  dispose(): void {
    this.views.clear()
    if (this.fitted) this.account.letGo(this.fitted)
    this.fitted = null
    this.kept.replace(null)
  }
}
