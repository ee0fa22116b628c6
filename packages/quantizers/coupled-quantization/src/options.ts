import { integer, oneOf } from '@kvloom/core'

/** Options of `coupledQuantization()`. */
export const coupledQuantizationOptions = {
  channels: oneOf([1, 2, 4, 6, 8], {
    default: 4,
    doc: 'Adjacent channels of a head that share a code (c). Divides the head dim; bits per value are bits / channels.',
  }),
  bits: integer({
    default: 8,
    min: 1,
    max: 12,
    doc: 'Bits of a code (b): 2^bits centroids per channel group. Channels 4 and bits 8 are the paper’s CQ-4c8b.',
  }),
  sensitivity: oneOf(['fisher', 'none'], {
    default: 'fisher',
    doc: 'Weights of the k-means: squared gradients of the loss, summed over a group’s channels, or all equal.',
  }),
  iterations: integer({ default: 10, min: 1, doc: 'Lloyd steps of the k-means; more gain little after its start.' }),
  restarts: integer({ default: 1, min: 1, doc: 'Starts of the k-means; each channel group keeps its best.' }),
  seed: integer({ default: 0, min: 0, max: 2 ** 31 - 1, doc: 'Of the starts, and of the choice of rows.' }),
  maxSamples: integer({
    default: 32768,
    min: 2,
    doc: 'Most calibration tokens used (the paper’s 16 × 2048); more are thinned out at random.',
  }),
  sinks: integer({
    default: 0,
    min: 0,
    doc: 'First tokens of a sequence that stay exact; no codebook is fitted on them.',
  }),
  recent: integer({
    default: 0,
    min: 0,
    doc: 'Newest tokens that stay exact. The paper’s sliding-window variant has 128.',
  }),
}
