import { integer, layerList, oneOf, optional } from '@kvloom/core'

/** Options of `clusterkv()`. */
export const clusterkvOptions = {
  budget: integer({
    default: 1024,
    min: 1,
    doc: 'Rows a query reads, sinks included; recent rows that are not indexed yet come on top.',
  }),
  tokensPerCluster: integer({ default: 80, min: 1, doc: 'Prompt tokens per cluster, on average.' }),
  clusters: optional(integer({ min: 1, doc: 'A fixed number of prompt clusters.' }), 'as tokensPerCluster says'),
  sinks: integer({ default: 16, min: 0, doc: 'First tokens: always read, never clustered.' }),
  every: integer({ default: 320, min: 1, doc: 'New tokens that are clustered together; until then all are read.' }),
  clustersPerBlock: integer({ default: 4, min: 1, doc: 'Clusters that so many new tokens become.' }),
  iterations: integer({ default: 20, min: 0, doc: 'Rounds of k-means at most; it stops when no label changes.' }),
  start: oneOf(['random', 'even'], {
    default: 'random',
    doc: 'First centroids: keys drawn without replacement, or evenly spaced ones.',
  }),
  seed: integer({ default: 0, min: 0, max: 2 ** 31 - 1, doc: 'Seed of the drawn keys.' }),
  skipLayers: layerList({ default: [0, 1], doc: 'Layers that read everything.' }),
  tier: oneOf(['device', 'host'], {
    default: 'device',
    doc: 'Where indexed rows lie: on the device (all of them, only reading is saved), or in host memory, fetched at each step.',
  }),
}
