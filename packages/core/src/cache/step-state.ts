/** What a step makes once for all layers: rotations of its rows, and the positions of the rows that are stored. */
import type * as tf from '@tensorflow/tfjs-core'
import type { Rope } from '../contract'
import { StepRotation } from '../rope'

/** Positions of stored keys: made by the first layer that asks, and shared by all whose rows have the same ones. */
export class StepPositions {
  private readonly shared = new Map<string, tf.Tensor2D>()

  /** `name` is null for positions that no other layer has. Handed back by `release`. */
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

  /** @param start original position of the first of `count` new rows */
  constructor(rope: Rope | null, start: number, count: number) {
    this.rotation = new StepRotation(rope, start, count)
  }
  dispose(): void {
    this.rotation.dispose()
    this.positions.dispose()
  }
}

/** The token at every original position, those of a step included; made when it is first asked for. */
export function tokensUpTo(seen: readonly number[], incoming: Int32Array): () => Int32Array {
  let ids: Int32Array | null = null
  return () => {
    if (ids) return ids
    ids = new Int32Array(seen.length + incoming.length)
    ids.set(seen)
    ids.set(incoming, seen.length)
    return ids
  }
}
