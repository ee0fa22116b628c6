export { recalkvOptions } from './options'
export { recalkv } from './recalkv'
