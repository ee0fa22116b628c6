import {
  flag,
  integer,
  type OptionSpec,
  type OptionsOf,
  oneOf,
  optional,
  type Part,
  type PredictorSource,
} from '@kvloom/core'

/** Name of the method, its stage and its artifact. */
export const NAME = 'linear-predictor'

const damping: OptionSpec<number> = {
  default: 1e-3,
  doc: 'Ridge, relative to the mean of the diagonal of the inputs’ Gram matrix.',
  allowed: 'a number from 0',
  valid: (v): v is number => typeof v === 'number' && Number.isFinite(v) && v >= 0,
}

/** Options of `linearPredictor()`. */
export const linearPredictorOptions = {
  keysFrom: oneOf(['keys', 'keys-values', 'nothing'], {
    default: 'keys',
    doc: 'What of the layer before predicts the keys.',
  }),
  valuesFrom: oneOf(['keys-values', 'keys', 'values', 'nothing'], {
    default: 'keys-values',
    doc: 'What predicts the values: this layer’s keys, the values of the layer before, or both.',
  }),
  rank: optional(integer({ min: 1, doc: 'Rank of the maps (reduced-rank regression).' }), 'full rank'),
  damping,
  drop: integer({
    default: 4,
    min: 0,
    doc: 'First tokens of every calibration sequence that are left out: sinks are unlike the rest and never sealed.',
  }),
  weights: oneOf(['f16', 'f32'], { default: 'f16', doc: 'How the maps are held.' }),
  keepReconstruction: flag({
    default: false,
    doc: 'Keep reconstructed rows between steps (counted as workspace) instead of rebuilding them, layer after layer, at each.',
  }),
}

export type Options = OptionsOf<typeof linearPredictorOptions>

/** What predicts a part, in the order of the weights' columns. */
export function sourcesOf({ keysFrom, valuesFrom }: Options, part: Part): readonly PredictorSource[] {
  const from = part === 'keys' ? keysFrom : valuesFrom
  const keys = { back: part === 'keys' ? 1 : 0, part: 'keys' } as const
  const values = { back: 1, part: 'values' } as const
  return [...(from.includes('keys') ? [keys] : []), ...(from.includes('values') ? [values] : [])]
}
