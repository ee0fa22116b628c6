import { integer, type OptionSpec, oneOf } from '@kvloom/core'

const share: OptionSpec<number> = {
  default: 0.25,
  doc: 'Share of the budget, protected tokens aside, that goes to representatives; 0: none.',
  allowed: 'a number from 0 to 1',
  valid: (v): v is number => typeof v === 'number' && v >= 0 && v <= 1,
}

/** Options of `kvcrush()`. */
export const kvcrushOptions = {
  share,
  anchor: oneOf(['mean', 'inverse-mean', 'alternating', 'random', 'zeros', 'ones'], {
    default: 'mean',
    doc: 'What signatures are compared with: the bits that most pages have, those that few have, 0101…, drawn bits, or all alike.',
  }),
  signature: oneOf(['kv', 'query'], {
    default: 'kv',
    doc: 'Whose bits a signature has: a bit per KV head by its scores, or per query head by the attention of the last queries.',
  }),
  window: integer({ default: 16, min: 1, doc: 'Last queries whose attention gives the bits of query heads.' }),
  page: integer({ default: 1, min: 1, doc: 'Tokens that stay or go together; their bits are one signature.' }),
  spacing: oneOf(['even', 'stride'], {
    default: 'even',
    doc: 'Which pages of those sorted by distance represent the others: from the first to the last, or every n-th from the first.',
  }),
  sinks: integer({ default: 4, min: 0, doc: 'First tokens that always stay.' }),
  recent: integer({ default: 16, min: 0, doc: 'Newest tokens that always stay.' }),
  seed: integer({ default: 0, min: 0, max: 0xffffffff, doc: 'Seed of the drawn bits.' }),
}
