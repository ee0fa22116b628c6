/**
 * StreamingLLM: the first few tokens draw attention whatever they say (attention sinks). Kept beside a window of the newest
 * tokens they let a model read endless text; the middle is dropped and forgotten.
 *
 * G. Xiao, Y. Tian, B. Chen, S. Han, M. Lewis, "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453),
 * section 3. What differs: besides streaming (room is made before every append, kept tokens move up to positions without
 * gaps) it can evict once, at the end of the prompt, with original positions, as NVIDIA/kvpress does (`keep`).
 */
import { definePick, NO_SEALING, OptionError, type RowRange } from '@kvloom/core'
import { streamingLlmOptions } from './options'

/** Keeps `sinks` first and `recent` newest tokens at any time, or, with `keep`, that fraction of the prompt once. */
export const streamingLlm = definePick({
  name: 'streaming-llm',
  title: 'StreamingLLM',
  summary: 'Keeps the first tokens and the newest.',
  paper: {
    title: 'Efficient Streaming Language Models with Attention Sinks',
    link: 'https://arxiv.org/abs/2309.17453',
  },
  options: streamingLlmOptions,
  check({ keep, recent }) {
    if (keep !== null && recent !== streamingLlmOptions.recent.default)
      throw new OptionError(
        'streaming-llm',
        'recent',
        recent,
        'left out beside keep',
        'Stream or evict once, not both.',
      )
  },
  when: ({ keep }) => (keep === null ? 'room' : 'promptEnd'),
  tokenSets: 'model',
  // Streaming beside a quantizer: sinks stay exact, so that blocks that are sealed die whole.
  window: ({ sinks, keep }) => ({ ...NO_SEALING, sinks: keep === null ? sinks : 0 }),
  by: 'positions',
  renumbersFrom: ({ keep, positions, sinks }) => (keep !== null || positions === 'original' ? undefined : sinks),
  pick: ({ sinks, recent, keep, positions }) => ({
    needs: {},
    positions: keep === null ? positions : 'original',
    // Evicting once, the newest token stays beside the sinks, also where keep · tokens is less.
    protect: { first: sinks, last: keep === null ? recent : 1 },
    ...(keep === null ? { chunkLimit: recent } : {}),
    count(tokens, incoming) {
      if (keep !== null) return Math.trunc(tokens * keep)
      return Math.min(tokens, sinks + Math.max(0, recent - incoming))
    },
    keep: (tokens, count) => sinksAndNewest(tokens, count, sinks),
  }),
})

/** Of `tokens` rows the first `sinks` and as many of the newest as make up `count`. */
function sinksAndNewest(tokens: number, count: number, sinks: number): readonly RowRange[] {
  const first = Math.min(sinks, count)
  return [
    { start: 0, end: first },
    { start: tokens - (count - first), end: tokens },
  ].filter(({ start, end }) => end > start)
}
