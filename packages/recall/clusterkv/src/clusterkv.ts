/**
 * ClusterKV: nothing is dropped, but a query reads only the keys it is likely to attend to. Keys are clustered by direction
 * once the prompt is there (and new ones in blocks); a query ranks the clusters by inner product with their centroids and
 * reads the tokens of the best ones until its budget is full, beside the first tokens and the newest.
 *
 *   label = argmax_c cos(k, μ_c)    μ_c = mean of its keys, not normalised    a query ranks by q · μ_c
 *
 * G. Liu, C. Li, J. Zhao, C. Zhang, M. Guo, "ClusterKV: Manipulating LLM KV Cache in Semantic Space for Recallable Compression"
 * (arXiv 2412.03213), sections 3 and 4. What differs: first centroids are drawn without replacement (the authors' code draws
 * with it, which makes empty clusters); a block of new tokens is never both clustered and read as recent; ties have an order.
 */
import {
  type Cures,
  defineMethod,
  IncompatibleStages,
  KvloomError,
  type OptionsOf,
  type Space,
  type Stage,
  type Tensors,
} from '@kvloom/core'
import { seededRandom } from '@kvloom/math'
import { type ClusterIndex, clusterKeys } from './cluster-keys'
import { clusterkvOptions } from './options'
import { rankClusters, selectRows } from './select-clusters'

type Options = OptionsOf<typeof clusterkvOptions>

/** Reads the tokens of the clusters that a query's inner products rank first. */
export const clusterkv = defineMethod(
  {
    name: 'clusterkv',
    title: 'ClusterKV',
    summary: 'Keeps everything, clusters keys by direction, and reads the clusters a query points to.',
    paper: {
      title: 'ClusterKV: Manipulating LLM KV Cache in Semantic Space for Recallable Compression',
      link: 'https://arxiv.org/abs/2412.03213',
    },
    chunkInvariant: true,
  },
  clusterkvOptions,
  (options) => {
    const { sinks, every, budget, tier, iterations } = options
    const stage: Stage<'recall'> = {
      kind: 'recall',
      id: 'clusterkv',
      options,
      when: 'read',
      facts: { tier },
      on: { except: options.skipLayers },
      accepts: (space, earlier) => accept(space, earlier, tier),
      bind: ({ layer }) => ({
        tier,
        sinks,
        every,
        budget,
        index(keys, { number, phase }) {
          const tokens = keys.shape[1] ?? 0
          const clusters = phase === 'decode' ? options.clustersPerBlock : clusterCount(tokens + sinks, options)
          const first = firstRows(tokens, Math.min(clusters, tokens), options, layer, number)
          return clusterKeys(keys, first, iterations)
        },
        async select(queries, blocks, _sizes, count) {
          const indexes = blocks.map(asIndex)
          return selectRows(await rankClusters(queries, indexes), indexes, count)
        },
      }),
    }
    return { stages: [stage] }
  },
)

/** Clusters of a prompt of so many tokens, sinks included: floor(tokens / tokensPerCluster) unless fixed, at least one. */
export const clusterCount = (tokens: number, o: Pick<Options, 'clusters' | 'tokensPerCluster'>): number =>
  o.clusters ?? Math.max(1, Math.floor(tokens / o.tokensPerCluster))

/** Rows whose keys are the first centroids; the same seed draws the same rows in every cache. */
function firstRows(
  tokens: number,
  clusters: number,
  { start, seed }: Options,
  layer: number,
  block: number,
): Int32Array {
  if (start === 'even') return Int32Array.from({ length: clusters }, (_, i) => Math.floor((i * tokens) / clusters))
  const mixed = seed ^ Math.imul(layer + 1, 0x9e3779b1) ^ Math.imul(block + 1, 0x85ebca6b)
  return seededRandom(mixed | 0)
    .permutation(tokens)
    .slice(0, clusters)
}

function accept(space: Space, earlier: string, tier: Options['tier']): Space {
  const refuse = (reason: string, cures: Cures): never => {
    throw new IncompatibleStages(earlier, 'clusterkv', reason, cures)
  }
  if (space.slots)
    refuse(`${earlier} rewrites its rows, and clusterkv's clusters name rows that stay as they are.`, [
      { kind: 'leaveOut', anyOf: [earlier, 'clusterkv'] },
      { kind: 'separate', by: 'layers', methods: [earlier, 'clusterkv'] },
    ])
  if (space.drops === 'always')
    refuse(`${earlier} drops tokens at any time, and clusterkv's clusters name tokens that stay.`, {
      kind: 'replace',
      method: earlier,
      what: 'a method that acts once, at the end of the prompt,',
      methods: ['snapkv', 'l2-norm'],
    })
  if (tier === 'host' && !space.randomAccess)
    refuse(`rows of ${earlier} cannot be decoded one by one, and clusterkv(tier=host) fetches single rows.`, {
      kind: 'options',
      method: 'clusterkv',
      options: { tier: 'device' },
    })
  return space
}

function asIndex({ centroids, sizes, members }: Tensors): ClusterIndex {
  if (!centroids || !sizes || !members)
    throw new KvloomError('CLUSTERKV_INDEX', 'clusterkv: an index holds centroids, sizes and members.')
  return { centroids, sizes, members }
}
