export { expectedAttention } from './expected-attention'
export { expectedAttentionOptions } from './options'
