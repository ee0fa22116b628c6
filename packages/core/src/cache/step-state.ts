/** What a step makes once for all layers: the rotation of its own rows, and the positions of stored rows. */
import type * as tf from '@tensorflow/tfjs-core'
import type { Rope } from '../contract'
import { StepRotation } from '../rope'

/** The positions of stored keys. The first layer that asks makes them, and all layers whose rows have the same ones share them. */
export class StepPositions {
  private readonly shared = new Map<string, tf.Tensor2D>()

  /** Lends positions, until `release`. A `name` of null says that no other layer has the same ones. */
  of(name: string | null, make: () => tf.Tensor2D): tf.Tensor2D {
    if (name === null) return make()
    const known = this.shared.get(name) ?? make()
    this.shared.set(name, known)
    return known
  }
  /** Frees positions that no other layer has; the others live until the end of the step. */
  release(positions: tf.Tensor2D): void {
    for (const known of this.shared.values()) if (known === positions) return
    positions.dispose()
  }
  dispose(): void {
    for (const t of this.shared.values()) t.dispose()
    this.shared.clear()
  }
}

export class StepState {
  readonly rotation: StepRotation
  readonly positions = new StepPositions()

  /** @param start the original position of the first of `count` new rows */
  constructor(rope: Rope | null, start: number, count: number) {
    this.rotation = new StepRotation(rope, start, count)
  }
  dispose(): void {
    this.rotation.dispose()
    this.positions.dispose()
  }
}

/** The token at every original position, with those of the step. It is made when it is first asked for. */
export function tokensUpTo(seen: readonly number[], incoming: Int32Array): () => Int32Array {
  let ids: Int32Array | null = null
  const before = seen.length
  return () => {
    if (ids) return ids
    ids = new Int32Array(before + incoming.length)
    // `seen` may have grown by the step's tokens since.
    ids.set(seen.slice(0, before))
    ids.set(incoming, before)
    return ids
  }
}
