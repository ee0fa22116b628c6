export { kvsharer } from './kvsharer'
export { kvsharerOptions } from './options'
export type { LayerPair, SharingSearch, Trial } from './search'
export { averageRows, layerDistances, rankPairs, searchSharing } from './search'
