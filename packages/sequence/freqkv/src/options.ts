import { fraction, integer } from '@kvloom/core'

/** Options of `freqkv()`. */
export const freqkvOptions = {
  window: integer({
    default: 4096,
    min: 2,
    doc: 'Rows at which the cache is full, sinks included; no position is ever larger.',
  }),
  sinks: integer({ default: 4, min: 0, doc: 'First tokens of the sequence, which are never filtered.' }),
  keep: fraction({
    default: 0.5,
    doc: 'Fraction of the frequencies, and so of the rows between sinks and window, that is left when the cache was full.',
  }),
}
