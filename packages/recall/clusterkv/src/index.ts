export { type ClusterIndex, clusterKeys } from './cluster-keys'
export { clusterCount, clusterkv } from './clusterkv'
export { clusterkvOptions } from './options'
export { clustersNeeded, hitRate, type Ranking, rankClusters, selectRows } from './select-clusters'
