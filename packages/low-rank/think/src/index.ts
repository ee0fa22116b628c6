export { thinkOptions } from './options'
export { think } from './think'
