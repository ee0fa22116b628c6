/** Cases made by the authors' l2_compress: once over a prompt, kept tokens in the order of their norms. */
import {
  bestOf,
  type CaseAdapter,
  compareArrays,
  compareKept,
  fromTensor,
  type GoldenCase,
  keptByCache,
  lastAttention,
  modelOf,
  type NdArray,
  numberOption,
  numbersOption,
  type Outcome,
  rowsOf,
  scorerOf,
  scoresOf,
  type TensorResult,
  type Tolerance,
  toTensor,
  withArena,
  wrong,
} from '@kvloom/golden'
import { attentionLoss } from '../src/attention-loss'
import { l2Norm } from '../src/l2-norm'

/** Norms closer than this tie: sums of float32 squares in another order (README of the data). */
const NORM_TIE = { abs: 1e-5, rel: 0 }

/** L2-norm against its authors' data, and as kvpress has it. */
export const adapter: CaseAdapter = {
  method: 'l2norm',
  run,
  press: {
    name: 'knorm',
    countsAsAny: true,
    make: (_, keep) => l2Norm({ keep, rounding: 'trunc', skipLayers: [], pruneAfter: 0 }),
  },
}

async function run(golden: GoldenCase): Promise<Outcome> {
  const rows = await rowsOf(golden)
  const layer = numberOption(golden, 'layer', 0)
  const skipLayers = numbersOption(golden, 'skip_layers', [])
  const pruneAfter = numberOption(golden, 'prune_after', 0)
  const compressor = l2Norm({ keep: numberOption(golden, 'keep_ratio'), skipLayers, pruneAfter })
  const model = modelOf(rows, layer + 1)
  const tokens = rows.keys.shape[1] ?? 0
  const scorer = scorerOf(compressor, model, layer)
  const scores = await scoresOf(scorer, rows)
  const norms: NdArray = { shape: scores.shape, data: (scores.data as Float32Array).map((score) => -score) }
  const untouched = skipLayers.includes(layer) || tokens < pruneAfter

  const tensors: TensorResult[] = []
  for (const name of golden.expects) {
    const expected = await golden.expected(name)
    const tolerance = golden.tolerance(name)
    if (name === 'norms') tensors.push(compareArrays(name, norms, expected, tolerance))
    else if (name === 'kept') {
      const gap = golden.scalars['min_gap_at_cut']
      const tied = typeof gap === 'number' && gap <= NORM_TIE.abs && golden.expects.includes('norms')
      const expectedScores = tied ? negated(await golden.expected('norms')) : undefined
      const byStage = await bestOf(scores, scorer.count(tokens, tokens), model.kvHeads)
      tensors.push(compareKept('kept (stage)', byStage, expected, expectedScores, NORM_TIE))
      tensors.push(compareKept(name, await keptByCache(compressor, rows, layer), expected, expectedScores, NORM_TIE))
    } else if (name === 'order') {
      const kept = await keptByCache(compressor, rows, layer)
      tensors.push(compareOrder(name, untouched ? kept : byNorm(kept, norms), expected, await golden.expected('norms')))
    } else if (name === 'alr') {
      const { loss, attention } = await withArena(async (arena) => {
        const seen = lastAttention(rows, arena)
        const lost = arena.own(attentionLoss(seen, arena.own(toTensor(norms))))
        return { loss: await fromTensor(lost), attention: await fromTensor(seen) }
      })
      tensors.push(compareLoss(name, loss, expected, tolerance, attention, await golden.expected('norms')))
    } else tensors.push(wrong(name, 'no result for this name'))
  }
  return { tensors }
}

const negated = ({ shape, data }: NdArray): NdArray => ({ shape, data: Float32Array.from(data, (x) => -x) })

/** Kept positions `[heads, kept]` by ascending norm, equal norms by position: the order in which the authors store them. */
function byNorm(kept: NdArray, norms: NdArray): NdArray {
  const [heads = 0, n = 0] = kept.shape
  const tokens = norms.shape[1] ?? 0
  const rows = Array.from({ length: heads }, (_, head) => {
    const normOf = (token: number) => norms.data[head * tokens + token] ?? 0
    return [...kept.data.subarray(head * n, (head + 1) * n)].sort((a, b) => normOf(a) - normOf(b) || a - b)
  })
  return { shape: kept.shape, data: Int32Array.from(rows.flat()) }
}

/** Equal orders, where tokens of tied norms may stand in any. */
function compareOrder(name: string, actual: NdArray, expected: NdArray, norms: NdArray): TensorResult {
  const n = expected.shape[1] ?? 0
  const tokens = norms.shape[1] ?? 0
  const normOf = (at: number, token: number) => norms.data[Math.floor(at / n) * tokens + token] ?? Number.NaN
  const settled = expected.data.map((want, at) => {
    const have = actual.data[at] ?? -1
    return Math.abs(normOf(at, have) - normOf(at, want)) <= NORM_TIE.abs ? have : want
  })
  return compareArrays(name, actual, { shape: expected.shape, data: settled }, {})
}

/** Tokens of tied norms may be dropped in any order, so the loss may lie anywhere between its best and worst order. */
function compareLoss(
  name: string,
  actual: NdArray,
  expected: NdArray,
  tolerance: Tolerance,
  attention: NdArray,
  norms: NdArray,
): TensorResult {
  const [queryHeads = 0, tokens = 0] = attention.shape
  const group = queryHeads / (norms.shape[0] ?? 1)
  const { abs = 0, rel = 0 } = tolerance
  const settled = expected.data.map((want, head) => {
    const mass = [...attention.data.subarray(head * tokens, (head + 1) * tokens - 1)]
    const kvHead = Math.floor(head / group)
    const [least, most] = lossRange(mass, norms.data.subarray(kvHead * tokens, (kvHead + 1) * tokens - 1))
    const allowed = (x: number) => x >= least - abs - rel * least && x <= most + abs + rel * most
    const have = actual.data[head] ?? Number.NaN
    return most > least && allowed(want) && allowed(have) ? have : want
  })
  return compareArrays(name, actual, { shape: expected.shape, data: settled }, tolerance)
}

/** Least and largest attention loss over all orders of tokens whose norms tie. */
function lossRange(mass: readonly number[], norms: NdArray['data']): readonly [number, number] {
  const normOf = (token: number) => norms[token] ?? 0
  const massOf = (token: number) => mass[token] ?? 0
  const order = mass.map((_, token) => token).sort((a, b) => normOf(b) - normOf(a))
  const groups: number[][] = []
  for (const [i, token] of order.entries()) {
    const before = order[i - 1]
    const last = groups.at(-1)
    if (last && before !== undefined && normOf(before) - normOf(token) <= NORM_TIE.abs) last.push(token)
    else groups.push([token])
  }
  // The token dropped first counts in every m, the last in one.
  const lost = (tokens: readonly number[]) =>
    tokens.reduce((sum, token, i) => sum + massOf(token) * (tokens.length - i), 0)
  const within = (sign: number) => lost(groups.flatMap((g) => [...g].sort((a, b) => sign * (massOf(a) - massOf(b)))))
  const reference = lost([...order].sort((a, b) => massOf(a) - massOf(b)))
  return [within(1) - reference, within(-1) - reference]
}
