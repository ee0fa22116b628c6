/**
 * KVzip: a cache that lets the model say its context again has lost nothing, whatever is asked later. So the model is asked to repeat the
 * context, and a pair of key and value is worth the largest share of its attention that any repeated token gives it.
 *
 *   s(h, i) = max over query heads g of KV head h, over tokens t of the pass, of softmax(q(g, t) · K / sqrt(d))(i)
 *   K = keys of the sinks, of the chunk that is repeated, and of the pass up to t
 *   the trunc(pairs · keep) pairs of largest s over all heads of all layers stay
 *
 * J.-H. Kim, J. Kim, S. Kwon, J. W. Lee, S. Yun, H. O. Song, "KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction" (arXiv
 * 2505.23416), sections 3 and 4. What differs: exactly trunc(pairs · keep) pairs stay (the authors keep those above the last one of them, one
 * fewer or more that tie); sinks and prefix count into `keep`; the prefix need not be the sinks, as in NVIDIA/kvpress, but it stays by
 * default, which it does not there.
 */
import {
  defineMethod,
  defineScorer,
  dropping,
  type HeadShare,
  perKvHead,
  type Stage,
  shareOut,
  type When,
} from '@kvloom/core'
import { max, type Tensor } from '@tensorflow/tfjs-core'
import { kvzipOptions } from './options'
import { passesOver } from './passes'

/** At the end of every prompt, and every so many tokens if asked. */
const whenOf = ({ every }: { readonly every: number | null }): When =>
  every === null ? 'promptEnd' : { everyTokens: every }

const scorer = defineScorer({
  name: 'kvzip',
  title: 'KVzip',
  summary: 'Keeps what the model attends to when it repeats its context; for any later question.',
  paper: {
    title: 'KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction',
    link: 'https://arxiv.org/abs/2505.23416',
  },
  options: kvzipOptions,
  when: whenOf,
  count: (tokens, { keep }, _, seen) => Math.min(tokens, Math.trunc(seen * keep)),
  needs: { shares: { of: 'replay' } },
  // Nothing measures the prefix, so it has no share of anything, and goes first where it is not protected.
  protect: ({ sinks, prefix, keepPrefix }) => ({ first: keepPrefix ? Math.max(sinks, prefix) : sinks }),
  replay: (context, options) => (options.keep === 1 ? [] : passesOver(context, options)),
  score({ shares }, _, { site }) {
    const kvHeads = ((shares.shape[0] ?? 0) * site.model.kvHeads) / site.model.queryHeads
    return perKvHead(shares, kvHeads, max) // [kvHeads, tokens]
  },
})

/** Keeps the fraction `keep` of all pairs of key and value, those that the model attends to when it repeats its context. */
export const kvzip = defineMethod(scorer.card, kvzipOptions, (options) => {
  const { keep, over } = options
  const { stages } = scorer(options)
  if (over === 'head') return { stages }
  const budget: Stage<'budget'> = {
    kind: 'budget',
    id: 'kvzip',
    options,
    when: whenOf(options),
    facts: { ragged: true },
    accepts: (space) => dropping(space, 'head', whenOf(options)),
    bind: () => ({ ragged: true, over, counts: (scores, _, heads) => countsOf(scores, heads, keep) }),
  }
  return { stages: [...stages, budget] }
})

/** How many rows each head keeps, of the tokens that all have seen; heads have no floor but the rows that stay in any case. */
function countsOf(scores: readonly Tensor[], heads: readonly HeadShare[], keep: number): Promise<readonly number[]> {
  const total = Math.trunc(heads.reduce((sum, { seen }) => sum + seen, 0) * keep)
  return shareOut(
    scores,
    heads.map(({ floor }) => floor),
    total,
  )
}
