/**
 * TOVA: a transformer is a multi-state RNN; when its state is full, the token that the newest query attends to least is
 * dropped. The attention is averaged over all heads, so a layer holds one set of tokens.
 *
 * M. Oren, M. Hassid, N. Yarden, Y. Adi, R. Schwartz, "Transformers are Multi-State RNNs" (arXiv 2401.06104), section 3.2.
 * What differs: besides the authors' form (`cache`: a fixed size, after the prompt and after every step, nothing is
 * protected) there is the one of NVIDIA/kvpress (`keep`: once, at the end of the prompt, the newest token stays).
 */
import { defineScorer, OptionError } from '@kvloom/core'
import { mean } from '@tensorflow/tfjs-core'
import { tovaOptions } from './options'

/** Keeps the tokens that the newest query attends to most: `cache` of them at any time, or `keep · tokens` once. */
export const tova = defineScorer({
  name: 'tova',
  title: 'TOVA',
  summary: 'Drops the tokens that the newest query attends to least; one set per layer.',
  paper: { title: 'Transformers are Multi-State RNNs', link: 'https://arxiv.org/abs/2401.06104' },
  chunkInvariant: false,
  options: tovaOptions,
  check({ cache, keep }) {
    if (cache !== null && keep !== tovaOptions.keep.default)
      throw new OptionError(
        'tova',
        'keep',
        keep,
        'left out beside cache',
        'Give a fixed cache or a fraction, not both.',
      )
  },
  when: ({ cache }) => (cache === null ? 'promptEnd' : 'step'),
  tokenSets: 'layer',
  needs: { attention: { of: 'attention', queries: 1, reduce: 'sum' } },
  // Evicting once, the newest token stays; the authors protect nothing.
  protect: ({ cache }) => ({ last: cache === null ? 1 : 0 }),
  count: (tokens, { cache, keep }) => (cache === null ? Math.trunc(tokens * keep) : Math.min(tokens, cache)),
  score: ({ attention }) => mean(attention, 0, true), // [1, tokens]
})
