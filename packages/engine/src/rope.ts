// Rotary frequencies as data, with the scaling variants of long-context models applied. The arithmetic is float32 in the order of
// huggingface/transformers (modeling_rope_utils.py), so that angles agree with what the models were evaluated with.
import type { Rope } from '@kvloom/core'
import type { ModelConfig, RopeScaling, YarnRamp } from './models/config'

const round = Math.fround

/**
 * Angles per position of the pairs (i, i + dim / 2), as the cache needs them.
 * @returns `dim / 2` frequencies, each a float32 number, and the factor on cos and sin
 */
export function ropeOf({ theta, dim, scaling }: ModelConfig['rope']): Rope {
  return { dim, ...scaled(plainFrequencies(theta, dim), theta, dim, scaling) }
}

/** Angles per position without any scaling, `dim / 2` float32 numbers. */
export function plainFrequencies(theta: number, dim: number): Float64Array {
  return Float64Array.from({ length: dim / 2 }, (_, i) => round(1 / round(theta ** round((2 * i) / dim))))
}

function scaled(plain: Float64Array, theta: number, dim: number, scaling: RopeScaling): Omit<Rope, 'dim'> {
  switch (scaling.kind) {
    case 'none':
      return { frequencies: plain, attentionFactor: 1 }
    case 'linear':
      return { frequencies: plain.map((each) => round(each / scaling.factor)), attentionFactor: 1 }
    case 'factors':
      return { frequencies: plain.map((each, i) => round(each / (scaling.factors[i] ?? 1))), attentionFactor: 1 }
    case 'frequencies':
      return { frequencies: Float64Array.from(scaling.frequencies), attentionFactor: scaling.attentionFactor }
    case 'llama3':
      return { frequencies: plain.map((each) => llama3(each, scaling)), attentionFactor: 1 }
    case 'yarn':
      return yarn(theta, dim, scaling)
  }
}

/** Long waves are slowed down by `factor`, short ones stay, those between are blended. */
function llama3(frequency: number, scaling: RopeScaling & { kind: 'llama3' }): number {
  const { factor, lowFrequencyFactor, highFrequencyFactor, originalContextLength } = scaling
  const wavelength = round(round(2 * Math.PI) / frequency)
  if (wavelength < originalContextLength / highFrequencyFactor) return frequency
  if (wavelength > originalContextLength / lowFrequencyFactor) return round(frequency / factor)
  const smooth = round(
    round(round(originalContextLength / wavelength) - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor),
  )
  return round(round(round(round(1 - smooth) * frequency) / factor) + round(smooth * frequency))
}

/** YaRN (arXiv:2309.00071, section 3): a ramp over the pairs between interpolation (slow) and extrapolation (fast). */
function yarn(theta: number, dim: number, scaling: RopeScaling & { kind: 'yarn' }): Omit<Rope, 'dim'> {
  const { factor } = scaling
  const shares = extrapolatedShares(theta, dim, scaling)
  const frequencies = shares.map((extrapolated, i) => {
    const power = round(theta ** round((2 * i) / dim))
    const interpolation = round(round(1 / round(factor * power)) * round(1 - extrapolated))
    return round(interpolation + round(round(1 / power) * extrapolated))
  })
  return { frequencies, attentionFactor: scaling.attentionFactor ?? (factor <= 1 ? 1 : 0.1 * Math.log(factor) + 1) }
}

/** How much of each of the `dim / 2` pairs YaRN leaves as it is, from 1 (fast pairs) to 0 (slow ones). */
export function extrapolatedShares(
  theta: number,
  dim: number,
  { originalContextLength, betaFast, betaSlow, truncate = true }: YarnRamp,
): Float64Array {
  /** The pair that turns `rotations` times over the original context; ends of the ramp are whole pairs unless told otherwise. */
  const pairOf = (rotations: number, whole: (pair: number) => number): number => {
    const pair = (dim * Math.log(originalContextLength / (rotations * 2 * Math.PI))) / (2 * Math.log(theta))
    return truncate ? whole(pair) : pair
  }
  const low = Math.max(pairOf(betaFast, Math.floor), 0)
  const high = Math.min(pairOf(betaSlow, Math.ceil), dim - 1)
  const width = round(high === low ? 0.001 : high - low)
  return Float64Array.from({ length: dim / 2 }, (_, i) =>
    round(1 - Math.min(1, Math.max(0, round(round(i - round(low)) / width)))),
  )
}
