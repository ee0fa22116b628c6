export { deflate } from './deflate'
export { deflateOptions } from './options'
