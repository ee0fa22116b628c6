export { kvcrush } from './kvcrush'
export { kvcrushOptions } from './options'
