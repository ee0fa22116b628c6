import { fraction, integer, layerList, oneOf } from '@kvloom/core'

/** Options of `l2Norm()`. */
export const l2NormOptions = {
  keep: fraction({ default: 0.5, doc: 'Fraction of the stored tokens that stays, per KV head.' }),
  rounding: oneOf(['ceil', 'trunc'], {
    default: 'ceil',
    doc: 'How keep · tokens becomes a count: ceil as the authors, trunc as kvpress (its "knorm").',
  }),
  skipLayers: layerList({
    default: [0, 1],
    doc: 'Layers that keep everything. The paper skips the first two, where the norm says little.',
  }),
  pruneAfter: integer({ default: 0, min: 0, doc: 'Layers with fewer stored tokens than this are left alone.' }),
  when: oneOf(['promptEnd', 'step'], {
    default: 'promptEnd',
    doc: 'Once at the end of the prompt, or after every append (the authors’ language modelling, with keep 0.98).',
  }),
}
