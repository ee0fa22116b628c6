export { lorc } from './lorc'
export { lorcOptions } from './options'
