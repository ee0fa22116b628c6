import { integer, oneOf, optional } from '@kvloom/core'

/** Options of `kvLatent()`. */
export const kvLatentOptions = {
  keyDim: optional(
    integer({ min: 2, doc: 'Channels a head keeps of queries and keys, an even number, at most the model’s.' }),
    'half of the model’s, as in the paper',
  ),
  valueDim: optional(
    integer({ min: 1, doc: 'Channels a head keeps of values, at most the model’s.' }),
    'half of the model’s, as in the paper',
  ),
  frequencies: oneOf(['own', 'modified'], {
    default: 'own',
    doc: 'Rotation of the kept pairs: their own, for use without training; or the grid of the paper, to be trained with.',
  }),
}
