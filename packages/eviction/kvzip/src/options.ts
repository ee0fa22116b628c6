import { flag, fraction, integer, oneOf, optional } from '@kvloom/core'

/** Options of `kvzip()`. */
export const kvzipOptions = {
  keep: fraction({
    default: 0.5,
    doc: 'Fraction of the pairs of all tokens seen that stays, sinks and prefix included.',
  }),
  over: oneOf(['model', 'layer', 'head'], {
    default: 'model',
    doc: 'What one budget is shared out over: all heads of all layers (the paper), the heads of each layer, or nothing: every head keeps as many.',
  }),
  every: optional(
    integer({
      min: 1,
      doc: 'Also acts each time the sequence has so many tokens more, of the prompt or decoded.',
    }),
    'at the end of a prompt alone',
  ),
  chunk: integer({
    default: 2048,
    min: 1,
    doc: 'Tokens that one pass repeats; fewer where the context of the model leaves less room.',
  }),
  sinks: integer({
    default: 4,
    min: 0,
    doc: 'First tokens of the sequence that always stay and take part in the softmax of every pass.',
  }),
  prefix: integer({
    default: 0,
    min: 0,
    doc: 'First tokens that are not repeated: a system prompt, the head of a chat.',
  }),
  keepPrefix: flag({
    default: true,
    doc: 'Whether the prefix always stays; else what of it are no sinks goes first, as in kvpress.',
  }),
}
