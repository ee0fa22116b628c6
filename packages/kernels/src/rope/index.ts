import type { Tensor } from '@tensorflow/tfjs-core'
import { checkTensor } from '../check'
import { KernelInputError } from '../errors'
import { dispatch } from '../kernel'
import { ropeName } from './reference'

/** wasm against the reference, relative to 1 + |reference|: two float32 products instead of float64 ones. */
export const ropeTolerance = 1e-6

/** Cosines and sines of every position and pair, float32 [maxPositions, pairs]; pairs = dim / 2, or fewer for partial rotary models. Attention scaling, if any, is in the tables. */
export interface RotationTables {
  readonly cos: Tensor
  readonly sin: Tensor
}

export interface RopeOptions {
  /** Rotates back. Default false. (Undoes the rotation only when the tables hold no attention scaling.) */
  readonly inverse?: boolean
}

/**
 * Rotary position embedding with half-split pairs (j, j + pairs): `y_j = x_j cos - x_{j+pairs} sin`, `y_{j+pairs} = x_{j+pairs} cos + x_j sin`.
 * Channels from 2 · pairs on pass through.
 * @param x float32 [heads, n, dim]
 * @param tables float32 [maxPositions, pairs], 2 · pairs at most dim
 * @param positions int32 [n], or [heads, n]; from 0 to maxPositions - 1
 * @returns float32 [heads, n, dim]
 * @throws KernelInputError when shapes or dtypes do not fit, or (cpu and wasm) a position lies outside the tables
 */
export function rope(x: Tensor, tables: RotationTables, positions: Tensor, options: RopeOptions = {}): Tensor {
  const { cos, sin } = tables
  checkTensor('rope', 'x', x, 'float32', ['heads', 'n', 'dim'])
  checkTensor('rope', 'cos', cos, 'float32', ['maxPositions', 'pairs'])
  checkTensor('rope', 'sin', sin, 'float32', cos.shape)
  const [heads = 0, rows = 0, dim = 0] = x.shape
  checkTensor('rope', 'positions', positions, 'int32', positions.rank === 2 ? [heads, rows] : [rows])
  const pairs = cos.shape[1] ?? 0
  if (2 * pairs > dim) {
    throw new KernelInputError({
      where: 'rope',
      given: `tables of ${pairs} pairs for dim ${dim}`,
      allowed: `${Math.floor(dim / 2)} pairs at most`,
      cure: "Build the tables for this head's dim.",
    })
  }
  return dispatch(ropeName, { x, cos, sin, positions }, { inverse: options.inverse ?? false })
}
