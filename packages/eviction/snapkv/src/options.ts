import { fraction, integer } from '@kvloom/core'

/** Options of `snapkv()`. */
export const snapkvOptions = {
  keep: fraction({
    default: 0.5,
    doc: 'Fraction of the prompt that stays, per KV head, the window included; the whole window at least.',
  }),
  window: integer({
    default: 64,
    min: 1,
    doc: 'Newest prompt tokens whose queries vote; they always stay. Prompts of at most this length are left alone.',
  }),
  kernel: integer({
    default: 5,
    min: 1,
    doc: 'Width of the average pooling along tokens, an odd number; zeros beyond the ends count. 1 is no pooling.',
  }),
}
