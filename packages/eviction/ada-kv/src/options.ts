import { type OptionSpec, oneOf } from '@kvloom/core'

/** A share, 0 and 1 included. */
const share = (o: { default: number; doc: string }): OptionSpec<number> => ({
  ...o,
  allowed: 'a number from 0 to 1',
  valid: (v): v is number => typeof v === 'number' && v >= 0 && v <= 1,
})

/** Options of `adaKv()`. */
export const adaKvOptions = {
  safeguard: share({
    default: 0.2,
    doc: 'Share of an equal budget that every KV head keeps whatever its scores are; 1: equal budgets.',
  }),
  over: oneOf(['layer', 'model'], {
    default: 'layer',
    doc: 'What one budget is shared out over: the heads of each layer, as in the paper, or all heads of all layers.',
  }),
}
