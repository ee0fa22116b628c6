export { tovaOptions } from './options'
export { tova } from './tova'
