export { coupledQuantization } from './coupled-quantization'
export { type Codebooks, type Group, lloyd, type Samples } from './lloyd'
export { coupledQuantizationOptions } from './options'
