import { fraction, integer, type OptionSpec, oneOf, optional } from '@kvloom/core'

/** A token id, or the ids of a marker that is several tokens long. */
export type TokenPattern = number | readonly number[]

const isId = (value: unknown): value is number => typeof value === 'number' && Number.isInteger(value) && value >= 0

const patterns = (doc: string): OptionSpec<readonly TokenPattern[]> => ({
  default: [],
  doc,
  allowed: 'a list of token ids, or of lists of them for markers of several tokens',
  valid: (v): v is readonly TokenPattern[] =>
    Array.isArray(v) && v.every((p) => isId(p) || (Array.isArray(p) && p.length > 0 && p.every(isId))),
})

const ids = (doc: string): OptionSpec<readonly number[]> => ({
  default: [],
  doc,
  allowed: 'a list of token ids',
  valid: (v): v is readonly number[] => Array.isArray(v) && v.every(isId),
})

/** Options of `fastgen()`. */
export const fastgenOptions = {
  minRecovery: fraction({
    default: 0.9,
    doc: "Attention mass that a head's policy must keep, mean over the prompt's queries. The paper's T is 2 · minRecovery - 1.",
  }),
  policies: oneOf(['fastgen', 'hybrid'], {
    default: 'fastgen',
    doc: "Policies to choose from, cheapest first: the paper's (special, punctuation, heavy, window), or windows and heavy tokens alone.",
  }),
  window: fraction({
    default: 0.3,
    doc: "Newest tokens that the paper's window policy keeps, as a fraction of the length.",
  }),
  heavy: fraction({
    default: 0.3,
    doc: "Most attended tokens that the paper's heavy policies keep, as a fraction of the length.",
  }),
  globalTokens: integer({ default: 4, min: 0, doc: 'First tokens that every policy keeps.' }),
  specialIds: patterns("The tokenizer's special tokens and markers of a chat template."),
  punctuationIds: ids('The vocabulary items made of punctuation and white space.'),
  maxLength: optional(
    integer({
      min: 1,
      doc: 'Length that window and heavy are fractions of, once the policy is chosen: prompt and answer.',
    }),
    'window is of the prompt, heavy of the tokens so far',
  ),
}
