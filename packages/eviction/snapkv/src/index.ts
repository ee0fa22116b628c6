export { snapkvOptions } from './options'
export { snapkv } from './snapkv'
