export { decoquant } from './decoquant'
export { decoquantOptions } from './options'
