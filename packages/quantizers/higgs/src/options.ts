import { integer, type OptionKind, type OptionSpec, oneOf, optional } from '@kvloom/core'
import { gridNames } from './grids'

const powerOfTwo = (n: number): boolean => Number.isInteger(Math.log2(n))

const blockSize: OptionKind<number> = {
  doc: 'Channels of a Hadamard block, which share a norm. Left out, it is the largest one up to 1024 that divides all KV channels of a token (the authors’ 1024 on Llama 3).',
  allowed: 'a power of two from 2 to 4096',
  valid: (v): v is number => typeof v === 'number' && v >= 2 && v <= 4096 && powerOfTwo(v),
}

const bitsPerValue: OptionSpec<number> = {
  default: 2,
  doc: `Bits of a code per value. Grids (vector d, points n = 2^(bits · d)): ${gridNames.join(', ')}.`,
  allowed: 'a number of bits for which there is a grid',
  valid: (v): v is number => typeof v === 'number' && v > 0 && v <= 8,
}

/** Options of `higgs()`. */
export const higgsOptions = {
  bits: bitsPerValue,
  vector: oneOf([1, 2, 4, 6, 8], { default: 2, doc: 'Values coded together, the dimension of the grid.' }),
  group: optional(blockSize, 'what fits'),
  metadata: oneOf(['f16', 'f32'], {
    default: 'f16',
    doc: 'How norms are stored; codes are computed with the exact norm.',
  }),
  sinks: integer({ default: 4, min: 0, doc: 'First tokens that stay exact for ever.' }),
  recent: integer({ default: 0, min: 0, doc: 'Newest tokens that always stay exact.' }),
  block: integer({
    default: 128,
    min: 1,
    doc: 'Tokens that wait, exact, until so many (beyond recent) are sealed together.',
  }),
}
