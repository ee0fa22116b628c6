export { kvzip } from './kvzip'
export { kvzipOptions } from './options'
