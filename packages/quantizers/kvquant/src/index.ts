export { kvquant } from './kvquant'
export { kvquantOptions } from './options'
