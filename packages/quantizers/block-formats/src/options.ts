import { oneOf } from '@kvloom/core'

/** Options of `blockFormats()`. */
export const blockFormatsOptions = {
  format: oneOf(['q8_0', 'q5_1', 'q5_0', 'q4_1', 'q4_0'], {
    default: 'q8_0',
    doc: 'Bits of a code, and whether a block keeps a scale (_0) or a scale and a minimum (_1).',
  }),
}
