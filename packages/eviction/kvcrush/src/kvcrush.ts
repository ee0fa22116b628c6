/**
 * KVCrush: eviction by importance keeps only what is important and loses the variety of the rest. So a part of the budget goes to
 * representatives of the tokens that would go. A token's signature has a bit per head: whether the head has it in the better half. Tokens whose
 * signatures are as far from one anchor count as alike, and representatives are taken at equal steps along that distance.
 *
 *   B = kept tokens without the protected ones, c = share; the B - trunc(c · B) largest scores stay
 *   b(i, h) = 1 where token i is among the trunc(n / 2) largest of head h;  δ(i) = Hamming distance of b(i) to the anchor
 *   the other tokens sorted by (δ, position): trunc(c · B) of them at equal steps, the first and the last included, stay
 *
 * G. K. Jha, S. Gobriel, L. Talamanova, N. Jain, "KVCrush: Key Value Cache Size-Reduction Using Similarity in Head-Behaviour" (arXiv 2503.00022). Two ports
 * with pages are options: `page`, `spacing: 'stride'` (OpenVINO GenAI) and `page`, `anchor: 'alternating'` (vLLM). What differs: the budget is
 * the scorer's, representatives included (OpenVINO adds them), and every head represents what itself would drop (in the vLLM port a head may
 * keep a page twice).
 */
import { definePick, KvloomError, type Observed } from '@kvloom/core'
import { type Tensor, tensor2d } from '@tensorflow/tfjs-core'
import { choose, type Rows, type Voter } from './choose'
import { kvcrushOptions } from './options'

/** Keeps representatives beside what any scorer finds important: `compose(snapkv({ keep: 0.25 }), kvcrush())`. */
export const kvcrush = definePick({
  name: 'kvcrush',
  title: 'KVCrush',
  summary:
    'Spends a part of the budget on representatives of what would go, by which heads find it important; wraps any scorer.',
  paper: {
    title: 'KVCrush: Key Value Cache Size-Reduction Using Similarity in Head-Behaviour',
    link: 'https://arxiv.org/abs/2503.00022',
  },
  chunkInvariant: true,
  options: kvcrushOptions,
  pick: (options) => ({
    needs: {
      positions: { of: 'positions' },
      ...(options.signature === 'query'
        ? { attention: { of: 'attention', queries: options.window, reduce: 'sum' } as const }
        : {}),
    },
    protect: { first: options.sinks, last: options.recent },
    positions: 'original',
    // The scorer says how many stay.
    count: (tokens) => tokens,
    async keep(tokens, count, scores, { positions, attention }: Observed) {
      if (!scores || !positions)
        throw new KvloomError('KVCRUSH_OBSERVED', 'kvcrush: it sees scores, and the positions of stored rows.')
      const held = await rowsOf<Int32Array>(positions)
      const own = await rowsOf<Float32Array>(scores)
      const all = own.map((scores, i): Rows => ({ scores, positions: held[i] ?? new Int32Array(tokens) }))
      const votes = attention ? await rowsOf<Float32Array>(attention) : own
      const masks = choose(all, votersOf(all, votes), count, options)
      const ones = new Float32Array(masks.length * tokens)
      for (const [i, mask] of masks.entries()) ones.set(mask, i * tokens)
      return tensor2d(ones, [masks.length, tokens])
    },
  }),
})

/** Whose bits make signatures: the heads that `votes` are of, each with the rows of its KV head. */
const votersOf = (all: readonly Rows[], votes: readonly Float32Array[]): readonly Voter[] =>
  votes.flatMap((scores, head) => {
    const rows = all[Math.floor((head * all.length) / votes.length)]
    return rows ? [{ scores, rows }] : []
  })

/** The rows of a matrix as arrays. */
async function rowsOf<T extends Float32Array | Int32Array>(matrix: Tensor): Promise<T[]> {
  const [rows = 0, columns = 0] = matrix.shape
  const data = (await matrix.data()) as T
  return Array.from({ length: rows }, (_, row) => data.subarray(row * columns, (row + 1) * columns) as T)
}
