import { fraction, integer, oneOf, optional } from '@kvloom/core'

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
  keep: optional(
    fraction({
      doc: 'Evict once: at the end of the prompt keep this fraction of it, the sinks and the newest token at least, with original positions (kvpress).',
    }),
    'stream, by recent',
  ),
}
