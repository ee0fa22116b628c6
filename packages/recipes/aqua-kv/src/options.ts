import { integer, type OptionsOf, oneOf, optional } from '@kvloom/core'
import { linearPredictorOptions } from '@kvloom/linear-predictor'

const group = optional(
  integer({
    min: 1,
    doc: 'Numbers that share a norm (higgs) or a scale and minimum (kivi). Not beside the backbone cq.',
  }),
  'for higgs what fits, up to 1024; for kivi 32',
)

const zones = {
  sinks: integer({ default: 4, min: 0, doc: 'First tokens that stay exact for ever: they are poorly predicted.' }),
  block: integer({
    default: 128,
    min: 1,
    doc: 'New tokens wait, exact, until so many are sealed together.',
  }),
}

/** Options of the predictors; see linear-predictor. */
const { rank, keepReconstruction, damping, keysFrom, valuesFrom, weights } = linearPredictorOptions

/** Options of `aquaKv()`. */
export const aquaKvOptions = {
  bits: integer({
    default: 2,
    min: 1,
    max: 8,
    doc: 'Bits of a code per value, of every layer but the first (higgs: 2, 3, 4; kivi: all; cq: 1, 2, 4, 8).',
  }),
  backbone: oneOf(['higgs', 'kivi', 'cq'], { default: 'higgs', doc: 'What quantizes the residuals.' }),
  group,
  first: oneOf([4, 3, 2, 'exact'], {
    default: 4,
    doc: 'Bits (higgs) of the first layer, which has no predictor and whose errors all layers see; or exact.',
  }),
  ...zones,
  rank,
  keepReconstruction,
}

/** Options of `aquaKvOver()`. */
export const aquaKvOverOptions = {
  first: aquaKvOptions.first,
  firstGroup: group,
  ...zones,
  drain: oneOf(['all', 'blocks'], {
    default: 'all',
    doc: 'Whether all that waits is sealed or whole blocks: blocks for quantizers whose groups span tokens.',
  }),
  rank,
  keepReconstruction,
  damping,
  keysFrom,
  valuesFrom,
  weights,
}
export type OverOptions = OptionsOf<typeof aquaKvOverOptions>
