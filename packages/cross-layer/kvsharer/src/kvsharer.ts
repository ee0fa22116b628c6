/**
 * KVSharer: some layers keep no keys and values and read those of an earlier layer. Which ones is searched once per model on a
 * few short sentences: the most different pairs of layers first, each kept if the model's last hidden states stay alike.
 *
 * Y. Yang et al., "KVSharer: Efficient Inference via Layer-Wise Dissimilar KV Cache Sharing" (arXiv 2410.18517), section 3. What
 * differs: distances follow the authors' notebook (see search.ts); a layer that shares computes no keys and values at all; the
 * order of the trials is an option, and a map may be given instead of searched.
 */
import {
  ArtifactMismatch,
  type Asked,
  CalibrationError,
  type CalibrationRun,
  defineMethod,
  type Fit,
  type HostTensor,
  type KVCompressor,
  type Learned,
  ModelMismatch,
  type ModelShape,
  OptionError,
  type OptionsOf,
  type Stage,
} from '@kvloom/core'
import { cosineSimilarity } from '@kvloom/math'
import { kvsharerOptions } from './options'
import { averageRows, layerDistances, rankPairs, resolved, searchSharing } from './search'

type Options = OptionsOf<typeof kvsharerOptions>

/** Layers that read the cache of an earlier one, by a searched or given map. */
export const kvsharer = defineMethod(
  {
    name: 'kvsharer',
    title: 'KVSharer',
    summary: 'Some layers read the keys and values of an earlier, dissimilar layer.',
    paper: {
      title: 'KVSharer: Efficient Inference via Layer-Wise Dissimilar KV Cache Sharing',
      link: 'https://arxiv.org/abs/2410.18517',
    },
    chunkInvariant: true,
  },
  kvsharerOptions,
  (options) => {
    const { map: given } = options
    if (given !== null) checkMap(given)
    const searched: Fit = {
      scope: 'model',
      foresee({ model }, asked) {
        checkShare(options, model, asked)
        return {}
      },
      run: (run, asked) => search(run, options, asked),
    }
    const stage: Stage<'model'> = {
      kind: 'model',
      id: 'kvsharer',
      options,
      when: 'load',
      // A layer that shares has no rows; those of the others are what they were.
      accepts: (space) => space,
      ...(given === null ? { fit: searched } : {}),
      bind({ model }, artifact) {
        const map = given ?? mapOf(artifact?.json)
        checkLayers(map, model)
        return { sourceLayer: (layer) => map[layer] ?? layer }
      },
    }
    return { stages: [stage] }
  },
)

/** @throws ModelMismatch when more layers are to share than can: all but the first, and those that another stage joins with others. */
function checkShare({ share }: Options, { layers }: ModelShape, asked: Asked): void {
  const joined = asked.layers.filter((layer) => layer > 0)
  const most = layers - 1 - joined.length
  if (share > most)
    throw new ModelMismatch(
      'kvsharer',
      `${share} layers cannot read earlier ones of a model that has ${layers}${
        joined.length > 0 ? `, of which another stage joins the layers ${joined.join(', ')} with others` : ''
      }.`,
      `Share at most ${most}${joined.length > 0 ? ', or let fewer layers be joined' : ''}.`,
    )
}

/** The map, with what was tried on the way to it. */
async function search(run: CalibrationRun, options: Options, asked: Asked): Promise<Learned> {
  const { layers } = run.model
  const { share, threshold, order, seed } = options
  checkShare(options, run.model, asked)
  const sentences = await run.sentences()
  const average = (part: 'keys' | 'values') => sentences.map((layer) => averageRows(layer[part]))
  const ranked = rankPairs(layerDistances(average('keys'), average('values')), order, seed)
  const pairs = ranked.filter(({ later }) => !asked.layers.includes(later))
  const original = await run.hidden(null)
  const found = await searchSharing(pairs, { layers, share, threshold }, async (map) =>
    meanCosine(original, await run.hidden(withMap(map))),
  )
  const shared = found.map.filter((source, layer) => source !== layer).length
  return {
    json: { map: found.map, asked: share, shared, trials: found.trials.map((each) => ({ ...each })) },
    tensors: {},
  }
}

/** The compressor of one trial. */
const withMap = (map: readonly number[]): KVCompressor => kvsharer({ map })

/** Mean over sentences of the cosine between all hidden states of a sentence `[tokens, hidden]`, taken as one vector. */
function meanCosine(original: readonly HostTensor[], shared: readonly HostTensor[]): number {
  const cosines = original.map(({ values }, sentence) => cosineSimilarity(values, shared[sentence]?.values ?? []))
  const mean = cosines.reduce((sum, each) => sum + each, 0) / cosines.length
  if (!Number.isFinite(mean))
    throw new CalibrationError('kvsharer', 'the last hidden states of its sentences are missing or not finite.')
  return mean
}

/** @throws OptionError for a map that no order of layers can follow. */
function checkMap(map: readonly number[]): void {
  const wrong = map.findIndex((source, layer) => source > layer || map[source] !== source)
  if (wrong >= 0)
    throw new OptionError(
      'kvsharer',
      'map',
      map,
      'per layer itself, or an earlier layer that reads itself',
      `Layer ${wrong} reads layer ${map[wrong]}; followed to its end the map is [${resolved(map).join(', ')}].`,
    )
}

/** @throws ModelMismatch when the map is of another number of layers. */
function checkLayers(map: readonly number[], { layers }: ModelShape): void {
  if (map.length !== layers)
    throw new ModelMismatch(
      'kvsharer',
      `the map has ${map.length} layers, the model ${layers}.`,
      'Give one entry per layer, or none to search.',
    )
}

/** What a search left in its artifact, where calibration puts what is learned of the whole model. @throws ArtifactMismatch */
function mapOf(json: unknown): readonly number[] {
  const map = (json as { readonly 'model.both'?: { readonly map?: unknown } } | undefined)?.['model.both']?.map
  const isMap = Array.isArray(map) && map.every((source): source is number => Number.isInteger(source))
  if (!isMap || map.some((source, layer) => source < 0 || source > layer || map[source] !== source))
    throw new ArtifactMismatch('kvsharer', 'it holds no map of layers.')
  return map
}
