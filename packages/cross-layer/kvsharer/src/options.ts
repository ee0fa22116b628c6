import { fraction, integer, layerList, oneOf, optional } from '@kvloom/core'

/** Options of `kvsharer()`. */
export const kvsharerOptions = {
  share: integer({
    default: 4,
    min: 0,
    doc: 'Layers that lose their own cache, fewer than the model has; fewer still if no more pass the threshold.',
  }),
  threshold: fraction({
    default: 0.5,
    doc: 'Mean cosine similarity of the last hidden states to the unshared model’s that a trial must exceed.',
  }),
  order: oneOf(['descending', 'ascending', 'random'], {
    default: 'descending',
    doc: 'Which pairs of layers are tried first: the most different (the paper), the most alike, or any.',
  }),
  seed: integer({ default: 0, min: 0, doc: 'Seed of the random order.' }),
  map: optional(
    layerList({
      least: 1,
      doc: 'The layer that each layer reads, for every layer of the model. A source must keep its own rows.',
    }),
    'it is searched',
  ),
}
