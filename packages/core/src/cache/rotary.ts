/** Rotary tables for every position that stored keys may have. All layers of a cache share them, and they grow by doubling. */
import type * as tf from '@tensorflow/tfjs-core'
import type { Rope } from '../contract'
import { ropeTables } from '../rope'
import { type Account, Held } from './account'

const FIRST = 256

export class Rotary {
  private readonly cos: Held<tf.Tensor2D>
  private readonly sin: Held<tf.Tensor2D>
  private positions = 0

  constructor(
    private readonly rope: Rope | null,
    account: Account,
  ) {
    this.cos = new Held(account)
    this.sin = new Held(account)
  }

  /** Whether the model rotates at all. */
  get rotates(): boolean {
    return this.rope !== null
  }
  get bytes(): number {
    return this.cos.bytes + this.sin.bytes
  }

  /** Lends tables `[at least positions, pairs]`. */
  upTo(positions: number): { readonly cos: tf.Tensor2D; readonly sin: tf.Tensor2D } {
    if (!this.rope) throw new Error('this model does not rotate')
    if (positions > this.positions || this.positions === 0) {
      let size = Math.max(FIRST, this.positions)
      while (size < positions) size *= 2
      const { cos, sin } = ropeTables(this.rope, 0, size)
      this.cos.replace(cos)
      this.sin.replace(sin)
      this.positions = size
    }
    const [cos, sin] = [this.cos.tensor, this.sin.tensor]
    if (!cos || !sin) throw new Error('no rotary tables')
    return { cos, sin }
  }

  dispose(): void {
    this.cos.replace(null)
    this.sin.replace(null)
    this.positions = 0
  }
}
