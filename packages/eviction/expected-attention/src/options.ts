import { flag, fraction, integer, type OptionSpec } from '@kvloom/core'

/** Options of `expectedAttention()`. */
export const expectedAttentionOptions = {
  keep: fraction({
    default: 0.5,
    doc: 'Fraction of the prompt that stays, per KV head, the sinks included; the sinks at least.',
  }),
  future: integer({ default: 512, min: 1, doc: 'Positions after the prompt over which the rotation is averaged.' }),
  sinks: integer({
    default: 4,
    min: 0,
    doc: 'First tokens of the sequence: they stay, and neither their queries nor their attention count.',
  }),
  covariance: flag({
    default: true,
    doc: 'Whether the spread of the queries counts, or their mean alone.',
  }),
  valueNorm: flag({
    default: true,
    doc: "Whether a token's expected attention is multiplied by the length of its value.",
  }),
  epsilon: {
    default: 0,
    doc: 'Added to the expected attention before it is multiplied, so that long values stay. The paper takes 0.02, 0 for needles.',
    allowed: 'a number from 0',
    valid: (v) => typeof v === 'number' && Number.isFinite(v) && v >= 0,
  } as OptionSpec<number>,
}
