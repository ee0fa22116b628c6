import { integer, oneOf, optional } from '@kvloom/core'

/** Options of `lorc()`. */
export const lorcOptions = {
  rank: optional(
    integer({ min: 1, doc: 'Numbers kept per token and part, on average over the layers.' }),
    'half of KV heads · dim',
  ),
  keyRank: optional(integer({ min: 1, doc: 'Rank of keys, where it differs from rank.' }), 'as rank'),
  valueRank: optional(integer({ min: 1, doc: 'Rank of values, where it differs from rank.' }), 'as rank'),
  allocation: oneOf(['progressive', 'uniform'], {
    default: 'progressive',
    doc: 'How ranks are shared out: more to shallow layers, by cumulative condition numbers (the paper), or the same to all.',
  }),
  maxRank: optional(
    integer({ min: 1, doc: 'Progressive: rank of the first layer.' }),
    'all of KV heads · dim, or less where the average asks for it',
  ),
  minRank: optional(
    integer({ min: 1, doc: 'Progressive: rank of the last layer, in place of an average.' }),
    'what the average leaves, at least 8',
  ),
  parts: oneOf(['both', 'keys', 'values'], { default: 'both', doc: 'What is compressed.' }),
  basis: oneOf(['weights', 'outputs'], {
    default: 'weights',
    doc: 'What the decomposition keeps best: the weights (the paper), or the rows they gave on calibration text.',
  }),
}
