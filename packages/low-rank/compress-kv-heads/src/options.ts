import { integer, oneOf, optional } from '@kvloom/core'

/** Options of `compressKvHeads()`. */
export const compressKvHeadsOptions = {
  headsPerGroup: optional(
    integer({ min: 1, doc: 'KV heads that share one latent. It divides the KV heads of the model.' }),
    'all KV heads, or the most up to 4 that divide them',
  ),
  rank: optional(
    integer({ min: 1, doc: 'Numbers kept per token, group and part.' }),
    'the channels of one head, as if one head of a group stayed',
  ),
  keyRank: optional(integer({ min: 1, doc: 'Rank of keys, where it differs from rank.' }), 'as rank'),
  valueRank: optional(integer({ min: 1, doc: 'Rank of values, where it differs from rank.' }), 'as rank'),
  rope: oneOf(['post', 'pre'], {
    default: 'post',
    doc: 'Keys are projected after RoPE (the paper), or before it and rotated when they are read.',
  }),
  parts: oneOf(['both', 'keys', 'values'], { default: 'both', doc: 'What is compressed.' }),
}
