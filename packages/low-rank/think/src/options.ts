import { integer, type OptionSpec, oneOf } from '@kvloom/core'

const prune: OptionSpec<number> = {
  default: 0.4,
  doc: 'Fraction of key channels that is dropped; trunc(dim · prune) of them, per KV head.',
  allowed: 'a number from 0 to below 1',
  valid: (v): v is number => typeof v === 'number' && v >= 0 && v < 1,
}

/** Options of `think()`. */
export const thinkOptions = {
  prune,
  window: integer({ default: 32, min: 1, doc: 'Last prompt queries that say which channels matter.' }),
  recent: integer({
    default: 32,
    min: 0,
    doc: 'Newest keys that keep all channels. Prompts of at most this length are left alone.',
  }),
  afterPrompt: oneOf(['dense', 'pruned'], {
    default: 'dense',
    doc: "Keys that come after the prompt: all channels stay (the authors' code), or they lose the same ones once they leave recent.",
  }),
}
