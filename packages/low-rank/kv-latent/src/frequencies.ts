/**
 * The rotation frequencies of KV-Latent (arXiv 2507.11273, section 3.3): base^(-e / dim) for `dim / 4` exponents e from dim / 4 in
 * steps of two, then `dim / 4` from 3 · dim / 4 in steps of one. The fastest eighth of the circle's exponents is left out, the
 * slowest quarter sampled twice as densely. Equation 11 as printed leads beyond dim; this follows the authors' code.
 */
import { ModelMismatch, type Rope } from '@kvloom/core'

/** The model's frequencies are float32 numbers; a scaling variant moves them by far more. */
const GEOMETRIC = 1e-5

/** `dim / 2` frequencies of a head of `dim` channels. @throws ModelMismatch where the model has no single base, or dim no quarters. */
export function modifiedFrequencies(rope: Rope, dim: number): Float64Array {
  if (dim % 4 !== 0)
    throw new ModelMismatch(
      'kv-latent',
      `the modified grid has two quarters of ${dim} exponents.`,
      'Ask for a keyDim that 4 divides, or use frequencies "own".',
    )
  const base = baseOf(rope)
  const quarter = dim / 4
  return Float64Array.from({ length: dim / 2 }, (_, j) => {
    const exponent = j < quarter ? quarter + 2 * j : 3 * quarter + (j - quarter)
    return base ** (-exponent / dim)
  })
}

/** The base of frequencies base^(-2j / dim). */
function baseOf({ dim, frequencies, attentionFactor }: Rope): number {
  const slowest = frequencies.at(-1) ?? Number.NaN
  const base = slowest ** (-dim / (dim - 2))
  const geometric = frequencies.every((each, j) => Math.abs(each / base ** ((-2 * j) / dim) - 1) < GEOMETRIC)
  if (!(base > 1) || !Number.isFinite(base) || !geometric || attentionFactor !== 1)
    throw new ModelMismatch(
      'kv-latent',
      'its rotation is scaled (NTK, YaRN or the like), and the modified grid is made from one base.',
      'Use frequencies "own".',
    )
  return base
}
