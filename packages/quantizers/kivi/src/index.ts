export { kivi } from './kivi'
export { kiviOptions } from './options'
