/** What Effectively Compress KV Heads learns of a model: a basis per group of heads, from the rows of calibration text. */
import { type Asked, CalibrationError, type HostTensor, type LayerSamples, type Learned } from '@kvloom/core'
import { type Matrix, matrix, multiply, symmetricEigen, transpose } from '@kvloom/math'
import { headsPerGroup, latents, type Options } from './groups'

/**
 * Of one layer and part: `basis` `[groups, rank, headsPerGroup · dim]`, best direction first, and `singularValues` of the
 * rows, `[groups, headsPerGroup · dim]` or as many as there are tokens.
 * @throws ModelMismatch; CalibrationError when there are no rows, or rows that are not finite
 */
export async function fitGroups(samples: LayerSamples, options: Options, asked: Asked): Promise<Learned> {
  const { heads, dim, part, layer, target } = samples
  const tokens = target.reduce((sum, { shape }) => sum + (shape[1] ?? 0), 0)
  if (tokens === 0)
    throw new CalibrationError('compress-kv-heads', `there are no ${part} of layer ${layer} to look at.`)
  const size = headsPerGroup(options, heads)
  const { heads: groups, dim: rank } = latents(options, { kvHeads: heads, dim, part }, asked)
  const width = size * dim
  const basis = new Float32Array(groups * rank * width)
  const spectrum = Math.min(width, tokens)
  const singularValues = new Float32Array(groups * spectrum)
  const keptEnergy: number[] = []
  for (let group = 0; group < groups; group++) {
    const covariance = matrix(width, width)
    for (const sequence of target) {
      const rows = groupRows(sequence, group * size, size)
      multiply(transpose(rows), rows).data.forEach((x, at) => {
        covariance.data[at] = (covariance.data[at] ?? 0) + x
      })
    }
    if (!covariance.data.every(Number.isFinite))
      throw new CalibrationError('compress-kv-heads', `some ${part} of layer ${layer} are not finite numbers.`)
    // The right singular vectors of the rows are the eigenvectors of their uncentred covariance.
    const { values, vectors } = symmetricEigen(covariance)
    const energies = values.map((energy) => Math.max(0, energy))
    singularValues.set(energies.subarray(0, spectrum).map(Math.sqrt), group * spectrum)
    for (let i = 0; i < rank; i++)
      for (let c = 0; c < width; c++) basis[(group * rank + i) * width + c] = vectors.data[c * width + i] ?? 0
    const sum = (x: Float64Array) => x.reduce((total, energy) => total + energy, 0)
    keptEnergy.push(sum(energies) > 0 ? sum(energies.slice(0, rank)) / sum(energies) : 1)
  }
  return {
    json: { rank, headsPerGroup: size, keptEnergy },
    tensors: {
      basis: { shape: [groups, rank, width], values: basis },
      singularValues: { shape: [groups, spectrum], values: singularValues },
    },
  }
}

/** Heads `first ... first + size` of `[heads, tokens, dim]` side by side: `[tokens, size · dim]`. */
function groupRows({ shape: [, tokens = 0, dim = 0], values }: HostTensor, first: number, size: number): Matrix {
  const rows = matrix(tokens, size * dim)
  for (let head = 0; head < size; head++)
    for (let token = 0; token < tokens; token++)
      for (let c = 0; c < dim; c++)
        rows.data[(token * size + head) * dim + c] = values[((first + head) * tokens + token) * dim + c] ?? 0
  return rows
}
