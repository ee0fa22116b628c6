/** Checks a step before a cache takes anything of it: the ids, the shapes, and whether the numbers can be stored. */
import { hasNonFinite } from '@kvloom/kernels'
import * as tf from '@tensorflow/tfjs-core'
import type { ModelShape, Phase } from '../contract'
import { CacheStateError, ModelMismatch } from '../errors'

export interface Given {
  readonly queries: tf.Tensor
  readonly keys?: tf.Tensor
  readonly values?: tf.Tensor
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

/** @throws ModelMismatch unless a layer was handed `n` rows of the model's shape, or queries alone where it reads another layer's rows */
export function checkShapes(model: ModelShape, layer: number, shared: boolean, n: number, given: Given): void {
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
}

/** A tensor and the largest magnitude that it may hold. */
export interface Limited {
  readonly what: 'queries' | 'keys' | 'values'
  readonly tensor: tf.Tensor
  readonly limit: number
}

/**
 * Finds the first of some tensors that holds NaN, infinity or too large a number; null when none does. It reads one flag per tensor back,
 * all at once.
 */
export async function firstStrange(tensors: readonly Limited[]): Promise<Limited | null> {
  const flags = tf.tidy(() => tf.concat(tensors.map(({ tensor, limit }) => hasNonFinite(tensor, limit))))
  const strange = await flags.data()
  flags.dispose()
  return tensors[strange.findIndex((flag) => flag !== 0)] ?? null
}
