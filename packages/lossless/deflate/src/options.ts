import { integer } from '@kvloom/core'

/** Options of `deflate()`. */
export const deflateOptions = {
  level: integer({
    default: 6,
    min: 0,
    max: 9,
    doc: 'Effort of the search for repetitions; 0 stores bytes as they are.',
  }),
}
