import { integer, type OptionSpec, oneOf } from '@kvloom/core'

/** Number in [0, 1]. */
const share = (o: { default: number; doc: string }): OptionSpec<number> => ({
  ...o,
  allowed: 'a number from 0 to 1',
  valid: (v): v is number => typeof v === 'number' && v >= 0 && v <= 1,
})

/** A layer, or the middle of the model. */
const start: OptionSpec<number | 'middle'> = {
  default: 'middle',
  doc: 'Lower layer of the first pair; pairs follow each other from there. middle: floor(layers / 2).',
  allowed: '"middle", or a layer number from 0',
  valid: (v): v is number | 'middle' => v === 'middle' || (typeof v === 'number' && Number.isInteger(v) && v >= 0),
}

/** Options of `minicache()`. */
export const minicacheOptions = {
  t: share({
    default: 0.6,
    doc: 'Where the shared direction lies between the layers: 0 at the lower one, 1 at the upper one, which then comes back exactly.',
  }),
  retention: oneOf(['topRatioPerHead', 'cosineBand', 'minAngleBand'], {
    default: 'topRatioPerHead',
    doc: 'Which rows stay exact: the share gamma of widest angles of each head; tokens near the smallest cosine; the inequality to the letter (most similar rows).',
  }),
  gamma: share({
    default: 0.05,
    doc: 'How many rows stay exact: their share (topRatioPerHead), or the part of the range of cosines or angles (bands). 1 keeps all.',
  }),
  start,
  block: integer({
    default: 64,
    min: 1,
    doc: 'Rows that are merged together; which of them stay exact is decided within the block.',
  }),
}
