export { aquaKv, aquaKvOver } from './aqua-kv'
export { aquaKvOptions, aquaKvOverOptions } from './options'
