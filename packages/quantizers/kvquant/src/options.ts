import { flag, fraction, integer, oneOf, optional } from '@kvloom/core'

/** Options of `kvquant()`. */
export const kvquantOptions = {
  bits: integer({
    default: 3,
    min: 1,
    max: 8,
    doc: 'Bits of a code: 2^bits signposts for a layer’s keys, and as many for its values. The paper has 4, 3 and 2.',
  }),
  dense: fraction({
    default: 0.99,
    doc: 'Share of the numbers that are quantized; the most extreme ones of every key channel and of every value token stay exact beside them. 1: all are quantized.',
  }),
  keyOutliers: optional(
    integer({ min: 1, doc: 'Exact numbers that the keys of a token have room for, over all heads.' }),
    'as many as 99 % of the calibration outliers need',
  ),
  qNorm: flag({
    default: false,
    doc: 'Moves the signposts, when they are read, so that mean and deviation stay what they were. It shows at 2 bits.',
  }),
  sensitivity: oneOf(['fisher', 'none'], {
    default: 'fisher',
    doc: 'Weights of the k-means: squared gradients of the loss, or all equal.',
  }),
  seed: integer({ default: 0, min: 0, max: 2 ** 31 - 1, doc: 'Of the k-means, and of the choice of tokens.' }),
  maxSamples: integer({
    default: 4096,
    min: 1,
    doc: 'Most calibration tokens that signposts are learned from; more are thinned out at random. Ranges of key channels are of all tokens.',
  }),
  sinks: integer({
    default: 1,
    min: 0,
    doc: 'First tokens of a sequence that stay exact; no signpost is learned from them.',
  }),
  recent: integer({ default: 0, min: 0, doc: 'Newest tokens that stay exact.' }),
  metadata: oneOf(['f16', 'f32'], {
    default: 'f16',
    doc: 'How outliers, and range and offset of value tokens, are stored; codes are computed from what is stored.',
  }),
}
