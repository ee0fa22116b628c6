/** Counts what a cache holds: pages by how many hold them, and tensors that change by being replaced. */
import * as tf from '@tensorflow/tfjs-core'
import { bytesOf } from '../tensors'

/** What is held by caches together and freed by the last of them: pages, and what was fitted for them. */
export interface Shared {
  readonly bytes: number
  /** What it holds on to. */
  readonly fitted: Shared | null
  retain(): this
  release(): void
}

/** The running sum of the bytes that one cache holds. Pages and tensors report to it; a page that several parts hold counts once. */
export class Account {
  held = 0
  peak = 0
  private readonly holders = new Map<Shared, number>()

  add(bytes: number): void {
    this.held += bytes
    if (this.held > this.peak) this.peak = this.held
  }
  hold<S extends Shared>(page: S): S {
    const holders = this.holders.get(page) ?? 0
    if (holders === 0) {
      this.add(page.bytes)
      if (page.fitted) this.share(page.fitted)
    }
    this.holders.set(page, holders + 1)
    return page
  }
  /** Holds a page that another cache made, and counts as one more of its owners when this cache holds it for the first time. */
  share<S extends Shared>(page: S): S {
    return this.hold(this.holders.has(page) ? page : page.retain())
  }
  letGo(page: Shared): void {
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
}

/** Holds a tensor that changes by being replaced. It is counted while held, and freed when replaced. */
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
    // tf.keep, since a replacement may happen inside a stage's tidy.
    if (next) this.account.add(bytesOf(tf.keep(next)))
    this.account.add(-this.bytes)
    this.held?.dispose()
    this.held = next
  }
}
