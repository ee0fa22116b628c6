export { fastgen } from './fastgen'
export { fastgenOptions, type TokenPattern } from './options'
