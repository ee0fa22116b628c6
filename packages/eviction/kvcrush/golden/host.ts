/** What all cases need: hosts that score as the reference did, and their scores as rows of KVCrush. */
import { compose, defineScorer, type KVCompressor } from '@kvloom/core'
import {
  type GoldenCase,
  GoldenError,
  type NdArray,
  numberOption,
  type Rows as Prompt,
  rowsOf,
  textOption,
} from '@kvloom/golden'
import { mean, reshape, tensor2d } from '@tensorflow/tfjs-core'
import type { Rows } from '../src/choose'
import { kvcrush } from '../src/kvcrush'

export type Options = NonNullable<Parameters<typeof kvcrush>[0]>

/** The rows of a case. It may give the last queries alone, since no others are looked at. */
export async function promptOf(golden: GoldenCase): Promise<Prompt> {
  const prompt = await rowsOf(golden)
  const [heads = 0, given = 0, dim = 0] = prompt.queries.shape
  const [, tokens = 0] = prompt.keys.shape
  const all = new Float32Array(heads * tokens * dim)
  for (let head = 0; head < heads; head++) {
    const own = prompt.queries.data.subarray(head * given * dim, (head + 1) * given * dim)
    all.set(own, ((head + 1) * tokens - given) * dim)
  }
  return { ...prompt, queries: { shape: [heads, tokens, dim], data: all } }
}

/** Keeps the tokens that the last `window` queries attend to: sums over queries, the mean over a KV head's query heads. */
export const byAttention = (window: number, count: number): KVCompressor =>
  defineScorer({
    name: 'attention',
    needs: { attention: { of: 'attention', queries: window, reduce: 'sum' } },
    count: () => count,
    score({ attention }, _, { site }) {
      const group = site.model.queryHeads / site.model.kvHeads
      return mean(reshape(attention, [-1, group, attention.shape[1] ?? 0]), 1)
    },
  })()

/** Keeps the tokens of the largest given scores, one set for all heads. */
export const byScores = (scores: Float32Array, count: number): KVCompressor =>
  defineScorer({
    name: 'given',
    needs: { keys: { of: 'keys' } },
    count: () => count,
    tokenSets: 'layer',
    score: () => tensor2d(scores, [1, scores.length]),
  })()

export const crushed = (host: KVCompressor, options: Options): KVCompressor => compose(host, kvcrush(options))

/** Scores `[heads, tokens]` as the rows that KVCrush gets: the first and the last ones stay in any case. */
export function asRows({ shape, data }: NdArray, first: number, last: number): Rows[] {
  const [heads = 0, tokens = 0] = shape
  const positions = Int32Array.from({ length: tokens }, (_, i) => i)
  return Array.from({ length: heads }, (_, head) => {
    const scores = Float32Array.from(data.subarray(head * tokens, (head + 1) * tokens))
    scores.fill(Number.POSITIVE_INFINITY, 0, first)
    scores.fill(Number.POSITIVE_INFINITY, tokens - last)
    return { scores, positions }
  })
}

const ANCHORS: Readonly<Record<string, Options['anchor']>> = {
  mean: 'mean',
  inverse_mean: 'inverse-mean',
  inv_mean: 'inverse-mean',
  alternating: 'alternating',
  alternate: 'alternating',
  random: 'random',
  zeros: 'zeros',
  ones: 'ones',
}

export function anchorOption(golden: GoldenCase): NonNullable<Options['anchor']> {
  const name = textOption(golden, 'anchor', '')
  const anchor = ANCHORS[name]
  if (!anchor) throw new GoldenError(`Case ${golden.name} has the anchor ${name}, which is not known.`)
  return anchor
}

export const seedOption = (golden: GoldenCase): number => numberOption(golden, 'seed', 0)

export const integers = (lists: readonly ArrayLike<number>[]): NdArray => ({
  shape: [lists.length, lists[0]?.length ?? 0],
  data: Int32Array.from(lists.flatMap((list) => Array.from(list))),
})
export const integerRow = (list: ArrayLike<number>): NdArray => ({ shape: [list.length], data: Int32Array.from(list) })
