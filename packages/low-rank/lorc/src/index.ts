export { lorc } from './lorc'
export { lorcOptions } from './options'
export { type ProgressiveRanks, progressiveRanks, type RankRange, rangeOfMean } from './ranks'
