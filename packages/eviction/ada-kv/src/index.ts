export { adaKv } from './ada-kv'
export { adaKvOptions } from './options'
