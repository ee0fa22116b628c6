export { coupledQuantization } from './coupled-quantization'
export { coupledQuantizationOptions } from './options'
