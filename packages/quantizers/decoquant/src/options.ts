import { integer, oneOf } from '@kvloom/core'

/** Options of `decoquant()`. */
export const decoquantOptions = {
  // With 1 bit no code but 0 would be left.
  bits: integer({ default: 4, min: 2, max: 8, doc: 'Bits of a code of the large factor. The paper has 8, 4 and 2.' }),
  channels: integer({
    default: 16,
    min: 1,
    max: 64,
    doc: 'Channels of a row that are decomposed together (J2): the small factor is channels × channels. Divides the KV channels of a token; 1 quantizes rows as they are.',
  }),
  block: integer({
    default: 128,
    min: 1,
    doc: 'Tokens that wait, exact, until they are decomposed together; each such block has its own small factor.',
  }),
  metadata: oneOf(['f16', 'f32'], {
    default: 'f16',
    doc: 'How the small factor and the scales are stored; codes are computed from the stored scales.',
  }),
}
