/** Checks a step before a cache takes anything of it: the ids, the shapes, and whether the numbers can be stored. */
import { hasNonFinite } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { ModelShape, Phase, ReplayPass } from '../contract'
import { CacheStateError, type Limit, ModelMismatch } from '../errors'
import type { NewRows } from './lane'
import { IN_F32 } from './limits'
import type { LayerPlan } from './plan'

export interface Given {
  readonly queries: tf.Tensor
  readonly keys?: tf.Tensor
  readonly values?: tf.Tensor
  readonly hidden?: tf.Tensor
}

const PHASES: readonly Phase[] = ['prompt', 'promptEnd', 'decode']

/** @throws CacheStateError unless tokens are ids and the phase is one that exists */
export function checkTokens(tokens: Int32Array, phase: Phase): void {
  if (!(tokens instanceof Int32Array))
    throw new CacheStateError('begin() takes token ids as an Int32Array, as the tokenizer gives them.')
  if (tokens.length === 0) throw new CacheStateError('begin() was given no tokens. Give at least one.')
  if (!PHASES.includes(phase))
    throw new CacheStateError(`begin() was given the phase "${String(phase)}"; there are: ${PHASES.join(', ')}.`)
}

/**
 * @throws ModelMismatch unless a layer was handed `n` rows of the model's shape (queries alone where it reads another layer's rows), and
 *   hidden states where a stage looks at them
 */
export function checkShapes(
  model: ModelShape,
  layer: number,
  shared: boolean,
  n: number,
  given: Given,
  wantsHidden: boolean,
): void {
  const { queryHeads, kvHeads, keyDim, valueDim } = model
  const expected = { queries: [queryHeads, n, keyDim], keys: [kvHeads, n, keyDim], values: [kvHeads, n, valueDim] }
  for (const part of ['queries', 'keys', 'values'] as const) {
    const tensor = given[part]
    if (shared && part !== 'queries') continue
    if (!tensor || !tf.util.arraysEqual(tensor.shape, expected[part]))
      throw new ModelMismatch(
        'attend()',
        `layer ${layer} was handed ${part} of shape [${tensor?.shape.join(', ') ?? 'none'}].`,
        `Give [${expected[part].join(', ')}].`,
      )
  }
  const { hidden } = given
  if (wantsHidden && !(hidden?.shape.length === 2 && hidden.shape[0] === n))
    throw new ModelMismatch(
      'attend()',
      `layer ${layer} was handed hidden states of shape [${hidden?.shape.join(', ') ?? 'none'}], which a stage of it looks at.`,
      `Give [${n}, hidden]: what the layer's projections were given.`,
    )
}

/** A tensor and the largest magnitude that it may hold. */
export interface Limited {
  readonly what: 'queries' | 'keys' | 'values'
  readonly tensor: tf.Tensor
  readonly limit: Limit
}

/** What a layer was handed, with the largest magnitude that each may have: keys on the side of RoPE on which they are stored, since rotation makes numbers larger. */
export function limitedBy({ lanes, largest }: LayerPlan, queries: tf.Tensor, own: NewRows | null): readonly Limited[] {
  const seen: Limited = { what: 'queries', tensor: queries, limit: IN_F32 }
  if (!own) return [seen]
  const keys = lanes[0]?.side === 'pre' ? own.keys : own.rotated
  return [
    seen,
    { what: 'keys', tensor: keys, limit: largest.keys },
    { what: 'values', tensor: own.values, limit: largest.values },
  ]
}

/**
 * Finds the first of some tensors that holds NaN, infinity or too large a number; null when none does. It reads one flag per tensor back,
 * all at once.
 */
export async function firstStrange(tensors: readonly Limited[]): Promise<Limited | null> {
  const flags = hasNonFinite(
    tensors.map(({ tensor }) => tensor),
    tensors.map(({ limit }) => limit.most),
  )
  const strange = await flags.data()
  flags.dispose()
  return tensors[strange.findIndex((flag) => flag !== 0)] ?? null
}

/** @throws CacheStateError for a pass that measures what the context of `tokens` tokens does not have */
export function checkPass({ tokens: own, from, to, sinks = 0 }: ReplayPass, tokens: number): void {
  const whole = [from, to, sinks].every((n) => Number.isInteger(n) && n >= 0)
  if (whole && from < to && to <= tokens && own instanceof Int32Array && own.length > 0) return
  throw new CacheStateError(
    `A replay was to measure positions ${from} to ${to} (sinks ${sinks}) with ${own?.length} tokens; give positions of the ${tokens} tokens seen and at least one token.`,
  )
}
