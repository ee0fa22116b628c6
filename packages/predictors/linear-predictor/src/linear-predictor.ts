/**
 * Linear predictor: the keys of a layer are nearly a linear function of the keys of the layer before, its values one of its own
 * keys and the values before. So the reader, who has those, predicts each row, and only the residual is left to be stored.
 *
 *   K^ = W_K K~(l-1) + b_K,   V^ = W_V [K~(l) ; V~(l-1)] + b_V,   rows of all KV heads side by side, keys before RoPE
 *
 * K~ and V~ are reconstructions, in fitting as in running, so that errors do not add up from layer to layer. Part of AQUA-KV:
 * A. Shutova et al., "Cache Me If You Must: Adaptive Key-Value Quantization for Large Language Models" (arXiv 2501.19392), section 3.
 * What differs: ridge regression sums and solves in float64 (the authors' code: float32 and a pseudo-inverse); the first tokens of
 * a sequence, which are never quantized, are left out of the fit; a reduced rank is its closed form (Izenman 1975).
 */
import {
  defineMethod,
  IncompatibleStages,
  learned,
  ModelMismatch,
  OptionError,
  type Part,
  refuseLayerSets,
  refuseSlots,
  type Site,
  type Space,
  type Stage,
} from '@kvloom/core'
import { fit } from './fit'
import { holdMap, predictRows } from './map'
import { linearPredictorOptions, NAME, type Options, sourcesOf } from './options'

/** Predicts keys and values of every layer but the first; compose it with a quantizer for the residuals. */
export const linearPredictor = defineMethod(
  {
    name: NAME,
    title: 'Linear predictor',
    summary: 'Predicts each layer’s keys and values from reconstructions, so that only residuals are stored.',
    paper: {
      title: 'Cache Me If You Must: Adaptive Key-Value Quantization for Large Language Models',
      link: 'https://arxiv.org/abs/2501.19392',
    },
    chunkInvariant: true,
  },
  linearPredictorOptions,
  (options) => {
    const parts = (['keys', 'values'] as const).filter((part) => sourcesOf(options, part).length > 0)
    if (parts.length === 0)
      throw new OptionError(NAME, 'valuesFrom', options.valuesFrom, 'a source', 'Predict keys, values or both.')
    return { stages: parts.map((part) => stage(options, part)) }
  },
)

const stage = (options: Options, part: Part): Stage<'predict'> => ({
  kind: 'predict',
  id: NAME,
  options,
  when: 'seal',
  // The first layer has nothing before it.
  on: { part, except: [0] },
  accepts: predicting,
  fit: fit(options),
  bind: (site, artifact) => {
    const names = options.rank === null ? ['weight'] : ['down', 'up']
    const matrices = names.map((name) => learned(artifact, site, name))
    checkOutputs(site, matrices.at(-1)?.shape[0])
    const map = {
      factors: matrices.map((matrix) => holdMap(site, matrix, options.weights)),
      bias: site.hold(learned(artifact, site, 'bias', [site.heads * site.dim])),
    }
    return {
      sources: sourcesOf(options, part),
      predict: (sources) => predictRows(map, sources),
      keepReconstruction: options.keepReconstruction,
    }
  },
})

function checkOutputs({ layer, part, heads, dim }: Site, outputs = 0): void {
  if (outputs !== heads * dim)
    throw new ModelMismatch(
      NAME,
      `it was fitted for ${outputs} channels, and layer ${layer} has ${heads * dim} in its ${part}.`,
      'Calibrate again: kvloom calibrate.',
    )
}

/** The heads of a token become one row, and what flows on are residuals of keys before RoPE, which no row decodes alone. */
function predicting(space: Space, earlier: string): Space {
  refuseSlots(space, NAME, earlier)
  refuseLayerSets(space, NAME, earlier, true)
  if (space.layerGroup > 1)
    throw new IncompatibleStages(
      earlier,
      NAME,
      `${earlier} joins the rows of ${space.layerGroup} layers, and ${NAME} predicts a layer from the one before.`,
      [
        { kind: 'leaveOut', anyOf: [earlier, NAME] },
        { kind: 'separate', by: 'layers', methods: [earlier, NAME] },
      ],
    )
  return {
    ...space,
    heads: 'all',
    dim: space.heads === 'all' ? space.dim : null,
    latent: true,
    rope: space.latent || space.rope === 'none' ? space.rope : 'pre',
    randomAccess: false,
  }
}
