import { integer, oneOf, optional } from '@kvloom/core'

const partBits = (part: string) =>
  optional(integer({ min: 1, max: 8, doc: `Bits of a ${part} code, where it differs from bits.` }), 'as bits')

/** Options of `kivi()`. */
export const kiviOptions = {
  bits: integer({ default: 2, min: 1, max: 8, doc: 'Bits of a code. The paper has 2 and 4.' }),
  keyBits: partBits('key'),
  valueBits: partBits('value'),
  // A group of one number would be a minimum and no code: a dense store with a detour.
  group: integer({
    default: 32,
    min: 2,
    doc: 'Numbers that share a scale and a minimum: tokens of a key channel, channels of a value. Divides the head dim of values.',
  }),
  residual: integer({
    default: 128,
    min: 1,
    doc: 'Keys wait, exact, until so many are sealed together; exactly so many newest values stay exact. A multiple of group.',
  }),
  metadata: oneOf(['f16', 'f32'], {
    default: 'f16',
    doc: 'How scale and minimum are stored; codes are computed from what is stored.',
  }),
}
