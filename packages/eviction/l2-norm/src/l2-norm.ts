/**
 * L2-norm eviction: keys of small norm tend to receive much attention, so each KV head keeps the tokens whose keys have
 * the lowest L2 norm. Nothing but the keys is looked at.
 *
 * A. Devoto, Y. Zhao, S. Scardapane, P. Minervini, "A Simple and Effective L2 Norm-Based Strategy for KV Cache
 * Compression" (arXiv 2406.11430), section 3. What differs: kept tokens are stored in the order of the text, not of their
 * norms (attention does not see the difference, every later rule does), and equal norms keep the earlier token.
 */
import { defineScorer } from '@kvloom/core'
import { neg, sqrt, square, sum } from '@tensorflow/tfjs-core'
import { l2NormOptions } from './options'

/** Keeps the keys of lowest norm: `ceil(keep · tokens)` per KV head, except on `skipLayers` and below `pruneAfter`. */
export const l2Norm = defineScorer({
  name: 'l2-norm',
  title: 'L2 norm',
  summary: 'Keeps the tokens whose keys have the lowest L2 norm.',
  paper: {
    title: 'A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression',
    link: 'https://arxiv.org/abs/2406.11430',
  },
  options: l2NormOptions,
  when: ({ when }) => when,
  needs: { keys: { of: 'keys' } },
  count(tokens, { keep, rounding, skipLayers, pruneAfter }, { layer }) {
    if (skipLayers.includes(layer) || tokens < pruneAfter) return tokens
    return rounding === 'ceil' ? Math.ceil(tokens * keep) : Math.trunc(tokens * keep)
  },
  // keys [kvHeads, tokens, keyDim] -> -||k|| [kvHeads, tokens]
  score: ({ keys }) => neg(sqrt(sum(square(keys), -1))),
})
