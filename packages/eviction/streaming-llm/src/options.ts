import { integer, type OptionSpec, oneOf } from '@kvloom/core'

/** 0, or a number in (0, 1]. */
const keep: OptionSpec<number> = {
  default: 0,
  doc: 'Evict once: at the end of the prompt keep this fraction of it, the sinks and the newest token at least, with original positions (kvpress). 0: stream, by `recent`.',
  allowed: '0, or a number above 0 and at most 1',
  valid: (v): v is number => typeof v === 'number' && v >= 0 && v <= 1,
}

/** Options of `streamingLlm()`. */
export const streamingLlmOptions = {
  sinks: integer({ default: 4, min: 0, doc: 'First tokens of the sequence, which always stay.' }),
  recent: integer({
    default: 512,
    min: 1,
    doc: 'Newest tokens that stay, those being appended included; also the most that one append may bring.',
  }),
  positions: oneOf(['slot', 'original'], {
    default: 'slot',
    doc: 'Streaming: slot re-numbers the kept tokens without gaps (the paper: endless text), original leaves them.',
  }),
  keep,
}
