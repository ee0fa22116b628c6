export { compressKvHeads } from './compress-kv-heads'
export { compressKvHeadsOptions } from './options'
