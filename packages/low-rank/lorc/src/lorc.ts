/**
 * LoRC: the key and value projections of a layer have low rank, so their outputs do too. The truncated SVD of each weight, all
 * KV heads together, gives a basis; a token stores its coordinates c in it, and shallow layers, whose errors pass through
 * everything that follows, keep more of them (ranks.ts).
 *
 *   W [heads · dim, hidden] = U S Vᵀ, basis B = U_r [heads · dim, r]
 *   c = Bᵀ (k - bias)        equals S_r V_rᵀ x: what the truncated weight would have given
 *   k' = B c + bias          keys before RoPE; values alike
 *
 * R. Zhang et al., "LoRC: Low-Rank Compression for LLMs KV Cache with a Progressive Compression Strategy" (arXiv 2410.03111).
 * No code of the authors was found: the SVD over all heads of a layer and the rank formula are a reading of the paper.
 * What differs: weights stay as they are, coordinates are taken from the rows themselves (the same numbers, since U_rᵀ W = S_r V_rᵀ);
 * a bias (Qwen2) is no part of the linear map: it is taken off before and added after. With a norm on keys (Qwen3) rows are
 * normed before they are projected, while the paper truncates the weight before the norm: such rows leave the space of the weight
 * where that is smaller than heads · dim, so the basis goes on beyond it (fit.ts), and full rank is heads · dim, which is exact.
 * `basis: 'outputs'` takes U from the rows on calibration text, the best basis there is for them; the paper's is data-free.
 */
import { ArtifactMismatch, defineTransform, gainOf, KvloomError, learned, NO_SEALING, OptionError } from '@kvloom/core'
import { mergeHeads } from '@kvloom/kernels'
import { matMul, reshape, squeeze, sub, transpose } from '@tensorflow/tfjs-core'
import { fitOutputs, fitWeights, foresee } from './fit'
import { lorcOptions } from './options'

/** A token is compressed as soon as it is there. */
const NOTHING_EXACT = { recent: 0, block: 1, drain: 'all' } as const

/** Keys before RoPE and values of all heads of a layer as coordinates in the leading singular vectors of their weight. */
export const lorc = defineTransform({
  name: 'lorc',
  title: 'LoRC',
  summary: 'Keys and values in the leading singular vectors of their weights, fewer in deeper layers.',
  paper: {
    title: 'LoRC: Low-Rank Compression for LLMs KV Cache with a Progressive Compression Strategy',
    link: 'https://arxiv.org/abs/2410.03111',
  },
  options: lorcOptions,
  check({ basis, allocation, rank, keyRank, valueRank, maxRank, minRank }) {
    if (basis === 'outputs' && allocation === 'progressive')
      throw new OptionError(
        'lorc',
        'allocation',
        allocation,
        '"uniform" with basis "outputs"',
        'Condition numbers are of weights.',
      )
    for (const [name, given] of Object.entries({ maxRank, minRank }))
      if (allocation === 'uniform' && given !== null)
        throw new OptionError('lorc', name, given, 'left out with allocation "uniform"')
    const means = [rank, keyRank, valueRank].filter((mean) => mean !== null)
    if (minRank !== null && means.length > 0)
      throw new OptionError(
        'lorc',
        'minRank',
        minRank,
        'left out beside rank, keyRank or valueRank',
        'The mean follows from it.',
      )
    if (maxRank !== null && Math.max(minRank ?? 0, ...means) > maxRank)
      throw new OptionError('lorc', 'maxRank', maxRank, 'at least minRank, rank, keyRank and valueRank')
  },
  parts: ({ parts }) => (parts === 'both' ? ['keys', 'values'] : [parts]),
  rope: 'pre',
  mergesHeads: true,
  window: ({ parts }) => ({
    sinks: 0,
    keys: parts === 'values' ? NO_SEALING.keys : NOTHING_EXACT,
    values: parts === 'keys' ? NO_SEALING.values : NOTHING_EXACT,
  }),
  // The paper changes the weights: a step sees its own rows compressed, and so does the prompt.
  ownRows: 'stored',
  // One rank for all layers is known from options alone, if they name it.
  dim: (options, { part }) =>
    options.allocation === 'uniform' ? (options[part === 'keys' ? 'keyRank' : 'valueRank'] ?? options.rank) : null,
  fit: (options, part) => ({
    foresee: (site, asked) => foresee(site, options, asked),
    ...(options.basis === 'weights'
      ? { scope: 'model', run: (run, asked) => fitWeights(run, part, options, asked) }
      : { scope: 'layer', run: (samples, asked) => fitOutputs(samples, options, asked) }),
  }),
  transform(_, site, artifact) {
    const { heads, dim, layer, part } = site
    const width = heads * dim
    const basis = learned(artifact, site, 'basis')
    const rank = basis.shape[1] ?? 0
    if (basis.shape.length !== 3 || basis.shape[0] !== 1 || basis.shape[2] !== width)
      throw new ArtifactMismatch(
        'lorc',
        `the basis of layer ${layer} has shape [${basis.shape.join(', ')}] instead of [1, rank, ${width}].`,
      )
    const up = site.hold(basis) // [1, rank, heads · dim]
    const offset = artifact?.tensors[`${layer}.${part}.bias`]
      ? learned(artifact, site, 'bias', [heads, 1, dim])
      : undefined
    const bias = offset && site.hold(offset)
    return {
      fitted: 'model',
      needs: {},
      main: { heads: 1, dim: rank },
      gain: gainOf(basis) * (offset ? 2 : 1),
      encode([rows]) {
        if (!rows) throw new KvloomError('LORC_ROWS', 'lorc: encode takes the rows of one layer.')
        const merged = mergeHeads(bias ? sub(rows, bias) : rows) // [n, heads · dim]
        // A plain product of two matrices: tfjs's wasm multiplies transposed ones ten times slower.
        return { main: reshape(matMul(merged, transpose(squeeze(up, [0]))), [1, rows.shape[1] ?? 0, rank]) }
      },
      decoder: () => (bias ? { up, bias } : { up }),
    }
  },
})
