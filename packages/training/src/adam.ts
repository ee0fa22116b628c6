/**
 * AdamW (I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, Algorithm 2) on plain numbers in host memory:
 * the same gradients give the same bytes on every backend.
 */
import type { WeightValues } from '@kvloom/engine'

const BETA_1 = 0.9
const BETA_2 = 0.999
/** The paper of KV-Latent has 2e-4, which is larger than most gradients of a mean loss over a small model, and would make this a plain momentum. */
const EPSILON = 1e-8
const WEIGHT_DECAY = 0.01

/** What AdamW remembers of a weight: the moving averages of its gradients and of their squares. */
export interface Moments {
  readonly first: Float32Array
  readonly second: Float32Array
}

/** Moments of weights that were not trained yet. */
export const freshMoments = (values: WeightValues): Map<string, Moments> =>
  new Map(
    [...values].map(([name, { length }]) => [
      name,
      { first: new Float32Array(length), second: new Float32Array(length) },
    ]),
  )

/** Norms and biases are not decayed. */
const decays = (name: string): boolean => !/Norm$|\.bias$/.test(name)

/**
 * One step. Moments change in place; weights are new arrays.
 * @param step its number, from 1
 * @returns the new values of the weights that have gradients
 */
export function adamStep(
  values: WeightValues,
  gradients: WeightValues,
  moments: ReadonlyMap<string, Moments>,
  { step, learningRate, scale = 1 }: { readonly step: number; readonly learningRate: number; readonly scale?: number },
): Map<string, Float32Array> {
  const [correction1, correction2] = [1 - BETA_1 ** step, 1 - BETA_2 ** step]
  const changed = new Map<string, Float32Array>()
  for (const [name, gradient] of gradients) {
    const old = values.get(name)
    const own = moments.get(name)
    if (!old || !own) continue
    const { first, second } = own
    const kept = decays(name) ? 1 - learningRate * WEIGHT_DECAY : 1
    const fresh = new Float32Array(old.length)
    for (let i = 0; i < fresh.length; i++) {
      const g = (gradient[i] ?? 0) * scale
      const m = BETA_1 * (first[i] ?? 0) + (1 - BETA_1) * g
      const v = BETA_2 * (second[i] ?? 0) + (1 - BETA_2) * g * g
      first[i] = m
      second[i] = v
      fresh[i] = (old[i] ?? 0) * kept - (learningRate * (m / correction1)) / (Math.sqrt(v / correction2) + EPSILON)
    }
    changed.set(name, fresh)
  }
  return changed
}
