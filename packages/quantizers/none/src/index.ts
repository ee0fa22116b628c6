export { none } from './none'
export { noneOptions } from './options'
