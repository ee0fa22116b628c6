import { fraction, integer, oneOf, optional } from '@kvloom/core'

/** Options of `recalkv()`. */
export const recalkvOptions = {
  keep: fraction({ default: 0.5, doc: 'Fraction of the numbers of keys and values that is kept, over all layers.' }),
  headsPerGroup: optional(
    integer({ min: 1, doc: 'KV heads whose keys share one latent. It divides the KV heads of the model.' }),
    'all KV heads, or the most up to 4 that divide them',
  ),
  allocation: oneOf(['fisher', 'uniform'], {
    default: 'fisher',
    doc: 'How ranks are shared out: by the Fisher information of the weights of keys and values of each layer (the paper), or the same to all.',
  }),
  fisherTokens: integer({
    default: 1024,
    min: 3,
    doc: 'Tokens of a text whose gradients are squared: for the Fisher information longer calibration sequences are cut into such texts.',
  }),
  block: integer({ default: 32, min: 1, doc: 'Ranks of a group are rounded to multiples of it.' }),
  iterations: integer({
    default: 1,
    min: 0,
    doc: 'Rounds of value calibration on what compressed layers hand on; 0 leaves it out.',
  }),
}
