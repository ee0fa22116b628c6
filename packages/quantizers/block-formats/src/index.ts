export { blockFormats } from './block-formats'
export { blockFormatsOptions } from './options'
