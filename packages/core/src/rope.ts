/** Makes rotation tables for exactly the positions of one step, so no position is too far. Channel j is paired with channel j + dim / 2. */

import { rope as rotateKernel } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { Rope } from './contract'

/** Rotates the rows of one step. Tables are made once per step and position shift, and shared by all layers. */
export class StepRotation {
  private readonly tables = new Map<number, { cos: tf.Tensor; sin: tf.Tensor; positions: tf.Tensor }>()

  /** @param start original position of the first row. @param count number of rows of the step */
  constructor(
    private readonly rope: Rope | null,
    private readonly start: number,
    private readonly count: number,
  ) {}

  /** Rotates row i of `[heads, count, dim]` to position `start - shift + i`. The result is a new tensor, also where the model does not rotate. */
  rotate(rows: tf.Tensor, shift = 0): tf.Tensor {
    if (!this.rope) return tf.clone(rows)
    const { cos, sin, positions } = this.table(this.rope, shift)
    return rotateKernel(rows as tf.Tensor3D, { cos, sin }, positions)
  }

  private table(rope: Rope, shift: number) {
    const known = this.tables.get(shift)
    if (known) return known
    const { cos, sin } = ropeTables(rope, this.start - shift, this.count)
    const table = {
      cos,
      sin,
      positions: tf.tensor1d(
        Int32Array.from({ length: this.count }, (_, i) => i),
        'int32',
      ),
    }
    this.tables.set(shift, table)
    return table
  }

  dispose(): void {
    for (const table of this.tables.values()) tf.dispose([table.cos, table.sin, table.positions])
    this.tables.clear()
  }
}

/** Cosines and sines of positions `start ... start + count - 1`, f32 `[count, pairs]` each. */
export function ropeTables(rope: Rope, start: number, count: number): { cos: tf.Tensor2D; sin: tf.Tensor2D } {
  const pairs = rope.dim / 2
  const cos = new Float32Array(count * pairs)
  const sin = new Float32Array(count * pairs)
  for (let i = 0; i < count; i++)
    for (let j = 0; j < pairs; j++) {
      const angle = (start + i) * (rope.frequencies[j] ?? 0)
      cos[i * pairs + j] = Math.cos(angle) * rope.attentionFactor
      sin[i * pairs + j] = Math.sin(angle) * rope.attentionFactor
    }
  return { cos: tf.tensor2d(cos, [count, pairs]), sin: tf.tensor2d(sin, [count, pairs]) }
}
