/**
 * SnapKV: what the last queries of a prompt attend to is what the answer will need. Their attention to every earlier token
 * is averaged, smoothed along the tokens so that neighbours of an important token stay too, and the best tokens are kept
 * beside the window itself.
 *
 * Y. Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation" (arXiv 2404.14469), section 4. What differs:
 * scores are averaged over a KV head's query heads, so a GQA cache stays as small as it was (the authors repeat it to every
 * query head first), the amount is a fraction of the prompt, and pooling averages; all three as NVIDIA/kvpress does it. Unlike there the window
 * stays whole where that fraction is less than it.
 */
import { defineScorer, OptionError, perKvHead } from '@kvloom/core'
import { addN, concat, div, pad, slice, type Tensor, zeros } from '@tensorflow/tfjs-core'
import { snapkvOptions } from './options'

/** Keeps the tokens that the last `window` prompt queries attend to most, and those queries' own tokens. */
export const snapkv = defineScorer({
  name: 'snapkv',
  title: 'SnapKV',
  summary: 'Keeps what the last queries of the prompt attend to.',
  paper: {
    title: 'SnapKV: LLM Knows What You are Looking for Before Generation',
    link: 'https://arxiv.org/abs/2404.14469',
  },
  options: snapkvOptions,
  check({ kernel }) {
    if (kernel % 2 === 0) throw new OptionError('snapkv', 'kernel', kernel, 'an odd number from 1')
  },
  needs: ({ window }) => ({ attention: { of: 'attention', queries: window, reduce: 'sum' } }),
  // The window stays, also where keep · tokens is less than it.
  protect: ({ window }) => ({ last: window }),
  score({ attention }, { window, kernel }, { site }) {
    const [queryHeads = 0, tokens = 0] = attention.shape
    // Where heads keep different counts, a call sees the query heads of one KV head.
    const kvHeads = (queryHeads * site.model.kvHeads) / site.model.queryHeads
    if (tokens <= window) return zeros([kvHeads, tokens]) // all stay, see protect
    const past = tokens - window
    const votes = div(slice(attention, [0, 0], [queryHeads, past]), window) // [queryHeads, past]
    const scores = perKvHead(averagePool(votes, kernel), kvHeads) // [kvHeads, past]
    return concat([scores, zeros([kvHeads, window])], 1) // [kvHeads, tokens]; the window stays, see protect
  },
})

/** Mean over `kernel` neighbours of each column of `[rows, columns]`; beyond the ends are zeros, and they count. */
function averagePool(x: Tensor, kernel: number): Tensor {
  const [rows = 0, columns = 0] = x.shape
  const side = (kernel - 1) / 2
  const padded = pad(x, [
    [0, 0],
    [side, side],
  ])
  return div(addN(Array.from({ length: kernel }, (_, shift) => slice(padded, [0, shift], [rows, columns]))), kernel)
}
