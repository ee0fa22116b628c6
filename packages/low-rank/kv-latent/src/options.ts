import { integer, oneOf } from '@kvloom/core'

/** Options of `kvLatent()`. */
export const kvLatentOptions = {
  keyDim: integer({
    default: 0,
    min: 0,
    doc: 'Channels a head keeps of queries and keys, an even number, at most the model’s; 0: half of the model’s, as in the paper.',
  }),
  valueDim: integer({
    default: 0,
    min: 0,
    doc: 'Channels a head keeps of values, at most the model’s; 0: half of the model’s, as in the paper.',
  }),
  frequencies: oneOf(['own', 'modified'], {
    default: 'own',
    doc: 'Rotation of the kept pairs: their own, for use without training; or the grid of the paper, to be trained with.',
  }),
}
