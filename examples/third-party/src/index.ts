/** Long values: keeps the tokens whose values are long, at the end of the prompt. */
import { defineScorer } from '@kvloom/core'
import { square, sum } from '@tensorflow/tfjs-core'

export const longValues = defineScorer({
  name: 'long-values',
  summary: 'Keeps the tokens with the longest values.',
  needs: { values: { of: 'values' } },
  // values [kvHeads, tokens, valueDim] to scores [kvHeads, tokens]; larger = keep
  score: ({ values }) => sum(square(values), -1),
})
