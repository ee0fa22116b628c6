/**
 * ReCalKV: keys and values in latents of few numbers, each in the way that suits it. KV heads whose keys are alike share a group, and every group
 * keeps its keys in its leading directions. The values of all heads share one latent, whose maps are fitted again on what a
 * layer will receive once the layers before it are compressed. Parts and layers that the loss depends on more get more numbers.
 *
 *   CKA(h, h') = ‖K_hᵀ K_h'‖² / (‖K_hᵀ K_h‖ ‖K_h'ᵀ K_h'‖)      of centred keys; the most similar heads are grouped (grouping.ts)
 *   keys:   c = [k of the group's heads] U_r,  k' = c U_rᵀ      U: directions of the group's calibration keys, before RoPE
 *   values: c = v P,  v' = c L      L: least squares of shifted rows on their latents, P: the pseudo-inverse of L (values.ts)
 *   rank of layer and part: in proportion to F = mean √(mean over sequences of (∂loss/∂W)²), W the weight that makes it (ranks.ts)
 *
 * X. Yan et al., "ReCalKV: Low-Rank KV Cache Compression via Head Reordering and Offline Calibration" (arXiv 2505.24357), with the authors' code
 * (XIANGLONGYAN/ReCalKV, ea548d5). What differs: weights stay as they are and rows are projected, which gives the same numbers, since the SVD of
 * a whitened weight is that of its outputs; a bias is part of the rows. CKA is of keys, where the code takes whitened weights, whose centring depends on
 * which square root whitens. Heads are not permuted when a token is read: each group's maps stand at the channels of its heads. Calibration takes
 * each token as a row, where the code sums eight sequences. As in the code, the loss of the Fisher information is that of the token after the next.
 */
import {
  ArtifactMismatch,
  type Bound,
  defineMethod,
  gainOf,
  KvloomError,
  learned,
  refuseHeadSets,
  refuseSlots,
  type Stage,
} from '@kvloom/core'
import { mergeHeads } from '@kvloom/kernels'
import { matMul, reshape, squeeze, transpose } from '@tensorflow/tfjs-core'
import { fitModel } from './fit'
import { latents } from './groups'
import { recalkvOptions } from './options'

/** A token is compressed as soon as it is there. */
const NOTHING_EXACT = { recent: 0, block: 1, drain: 'all' } as const

/** Keys before RoPE in groups of similar heads, values in one calibrated latent. */
export const recalkv = defineMethod(
  {
    name: 'recalkv',
    title: 'ReCalKV',
    summary:
      'Keys in groups of similar heads, values in a latent calibrated on compressed layers, ranks by Fisher information.',
    paper: {
      title: 'ReCalKV: Low-Rank KV Cache Compression via Head Reordering and Offline Calibration',
      link: 'https://arxiv.org/abs/2505.24357',
    },
    chunkInvariant: true,
  },
  recalkvOptions,
  (options) => {
    const stage: Stage<'transform'> = {
      kind: 'transform',
      id: 'recalkv',
      options,
      when: 'seal',
      accepts(space, earlier) {
        refuseSlots(space, 'recalkv', earlier)
        refuseHeadSets(space, 'recalkv', earlier)
        const rope = space.part === 'keys' ? 'pre' : space.rope
        return { ...space, heads: 'all', dim: null, rope, latent: true, layerGroup: 1 }
      },
      fit: {
        scope: 'model',
        foresee: ({ model, part }, asked) => ({ main: latents(options, model, part, asked) }),
        run: (run, asked) => fitModel(run, options, asked),
      },
      bind: (site, artifact): Bound['transform'] => {
        const down = learned(artifact, site, 'down')
        const [one = 0, rank = 0, width = 0] = down.shape
        if (down.shape.length !== 3 || one !== 1 || width !== site.heads * site.dim)
          throw new ArtifactMismatch(
            'recalkv',
            `the ${site.part} of layer ${site.layer} are mapped by [${down.shape.join(', ')}] instead of [1, rank, ${site.heads * site.dim}].`,
          )
        const into = site.hold(down) // [1, rank, heads · dim]
        const up = site.part === 'keys' ? into : site.hold(learned(artifact, site, 'up', [1, rank, width]))
        return {
          fitted: 'model',
          needs: {},
          main: { heads: 1, dim: rank },
          gain: gainOf(down),
          encode([rows]) {
            if (!rows) throw new KvloomError('RECALKV_ROWS', 'recalkv: encode takes the rows of one layer.')
            // A plain product of two matrices: tfjs's wasm multiplies transposed ones ten times slower.
            const main = matMul(mergeHeads(rows), transpose(squeeze(into, [0])))
            return { main: reshape(main, [1, rows.shape[1] ?? 0, rank]) }
          },
          decoder: () => ({ up }),
        }
      },
    }
    return {
      stages: [stage],
      window: { sinks: 0, keys: NOTHING_EXACT, values: NOTHING_EXACT },
      // The paper changes the weights: a step sees its own rows compressed, and so does the prompt.
      ownRows: 'stored',
    }
  },
)
