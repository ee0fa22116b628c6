import { fraction, integer, optional } from '@kvloom/core'

/** Options of `tova()`. */
export const tovaOptions = {
  cache: optional(
    integer({
      min: 1,
      doc: 'The authors’ form: most tokens a layer holds after every append, the prompt included; nothing is protected, not even the newest token.',
    }),
    'evict once, by keep',
  ),
  keep: fraction({
    default: 0.5,
    doc: 'Evicting once, at the end of the prompt (kvpress): the fraction that stays; the newest token always does. Not beside `cache`.',
  }),
}
