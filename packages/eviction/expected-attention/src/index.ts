export { expectedAttention } from './expected-attention'
export { type FutureQueries, futureQueries } from './future-queries'
export { expectedAttentionOptions } from './options'
