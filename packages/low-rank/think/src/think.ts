/**
 * ThinK: most channels of a key hardly move the attention. A channel adds ‖q_c‖ ‖k_c‖ to q kᵀ, so the channels with the smallest
 * product of query and key energy are dropped from the keys of the prompt, per KV head, once at its end; the newest keys stay whole.
 *
 *   score[c] = mean over the last queries of q_c² · mean over the kept keys of k_c²      after RoPE
 *   kept = the dim - trunc(dim · prune) best channels, in order
 *   q · k' = q[kept] · k[kept]                                                            scaled by 1 / sqrt(dim), as before
 *
 * Y. Xu et al., "ThinK: Thinner Key Cache by Query-Driven Pruning" (arXiv 2407.21018), its channel pruning. What differs: q_c² is averaged
 * over a KV head's query heads as NVIDIA/kvpress does it, so a GQA cache stays as small as it was (the authors repeat keys to
 * every query head first); a prompt no longer than the recent window is left alone, where the authors' code fails.
 */
import { defineTransform, KvloomError, NO_SEALING, perKvHead, type Tensors } from '@kvloom/core'
import { selectTop } from '@kvloom/kernels'
import {
  cast,
  matMul,
  mean,
  mul,
  oneHot,
  slice,
  square,
  squeeze,
  stack,
  type Tensor,
  transpose,
} from '@tensorflow/tfjs-core'
import { thinkOptions } from './options'

/** The prompt's keys without the channels that its last queries care least about. */
export const think = defineTransform({
  name: 'think',
  title: 'ThinK',
  summary: 'Drops the key channels that the last queries of the prompt care least about.',
  paper: {
    title: 'ThinK: Thinner Key Cache by Query-Driven Pruning',
    link: 'https://arxiv.org/abs/2407.21018',
  },
  chunkInvariant: true, // the prompt is exact until its end, and only then looked at
  options: thinkOptions,
  when: 'promptEnd',
  parts: () => ['keys'],
  rope: 'post',
  dim: ({ prune }, { dim }) => (dim === null ? null : keptOf(dim, prune)),
  window: ({ recent }) => ({
    sinks: 0,
    keys: { recent, block: 1, drain: 'all' },
    values: NO_SEALING.values,
  }),
  transform({ prune, window, afterPrompt }, { heads, dim }) {
    const kept = keptOf(dim, prune)
    return {
      fitted: 'prompt',
      needs: { queries: { of: 'queries', last: window } },
      main: { heads, dim: kept },
      afterPrompt: afterPrompt === 'pruned',
      fitOnline(keys, { queries }) {
        if (!queries) throw new KvloomError('THINK_QUERIES', 'think: it is fitted on the last queries of the prompt.')
        return { channels: selectTop(channelScores(queries, keys), kept) } // int32 [heads, kept], rising
      },
      encode([keys], state) {
        if (!keys) throw new KvloomError('THINK_ROWS', 'think: encode takes the keys of one layer.')
        return { main: select(keys, expansion(state, dim)) }
      },
      decoder: (state) => ({ up: expansion(state, dim) }),
    }
  },
})

/** How many of a head's channels stay. */
const keptOf = (dim: number, prune: number): number => dim - Math.trunc(dim * prune)

/**
 * How much each channel moves the attention: `[kvHeads, dim]`, larger = keep. Equal to the mean of (q_c k_c)² over all pairs of
 * a query and a key, since ‖Q_c K_cᵀ‖² = ‖Q_c‖² ‖K_c‖² for one channel.
 * @param queries `[queryHeads, window, dim]` after RoPE; queryHeads is a multiple of kvHeads
 * @param keys `[kvHeads, tokens, dim]` after RoPE
 */
export function channelScores(queries: Tensor, keys: Tensor): Tensor {
  const [kvHeads = 1] = keys.shape
  return mul(perKvHead(mean(square(queries), 1), kvHeads), mean(square(keys), 1))
}

/** One row per kept channel with a 1 at its place, `[heads, kept, dim]`: kept channels back to all, the others 0. */
function expansion({ channels }: Tensors, dim: number): Tensor {
  if (!channels) throw new KvloomError('THINK_STATE', 'think: the channels of this prompt are not chosen yet.')
  return cast(oneHot(channels, dim), 'float32') // cast: with dtype float32 tfjs's wasm writes the bits of integers
}

/** The kept channels of `keys` `[heads, n, dim]`: `[heads, n, kept]`, exactly. A plain product per head, which every backend does fast. */
function select(keys: Tensor, up: Tensor): Tensor {
  const [heads = 0, n = 0, dim = 0] = keys.shape
  const places = transpose(up, [0, 2, 1]) // [heads, dim, kept]
  const kept = places.shape[2] ?? 0
  const one = (x: Tensor, head: number, size: [number, number, number]) => squeeze(slice(x, [head, 0, 0], size), [0])
  return stack(
    Array.from({ length: heads }, (_, head) => matMul(one(keys, head, [1, n, dim]), one(places, head, [1, dim, kept]))),
  )
}
