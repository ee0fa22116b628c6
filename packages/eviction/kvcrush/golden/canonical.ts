/** The paper's form: token by token, signatures over KV heads or query heads. */
import {
  compareNamed,
  type GoldenCase,
  keptByCache,
  modelOf,
  type NdArray,
  numberOption,
  type Outcome,
  type Rows as PromptRows,
  scorerOf,
  scoresOf,
  textOption,
} from '@kvloom/golden'
import { choosePages, compare, rowsByPage, type Voter } from '../src/choose'
import { anchorOption, asRows, byAttention, crushed, integerRow, integers, promptOf } from './host'

export async function canonical(golden: GoldenCase): Promise<Outcome> {
  const rows = await promptOf(golden)
  const [budget, window] = [numberOption(golden, 'budget'), numberOption(golden, 'window')]
  const [sinks, recent] = [numberOption(golden, 'start'), numberOption(golden, 'recent')]
  const signature = textOption(golden, 'signature_heads', 'kv') === 'query' ? 'query' : 'kv'
  const options = {
    share: numberOption(golden, 'share'),
    anchor: anchorOption(golden),
    signature,
    window,
    sinks,
    recent,
  } as const
  const compressor = crushed(byAttention(window, sinks + budget + recent), options)
  const parts = { ...options, page: 1, spacing: 'even', seed: 0 } as const

  const scores = await scoresOf(scorerOf(compressor, modelOf(rows)), rows)
  const all = asRows(scores, sinks, recent)
  const compared = compare(
    all,
    signature === 'kv' ? all.map((own) => ({ scores: own.scores, rows: own })) : await votersOf(rows, window, all),
    parts,
  )
  const { region, signatures, anchor, distances } = compared
  const chosen = all.map((own) => choosePages(own, rowsByPage(own, region, 1), distances, budget, parts))
  const positionsOf = (pages: readonly number[]) => [...pages].sort((a, b) => a - b).map((page) => region.from + page)
  const representatives = integers(chosen.map(({ representatives }) => positionsOf(representatives)))
  return {
    tensors: await compareNamed(golden, {
      scores,
      bits: { shape: [region.pages, signatures.width], data: Int32Array.from(signatures.bits) },
      anchor: integerRow(anchor),
      distances: integerRow(distances),
      important: integers(chosen.map(({ important }) => positionsOf(important))),
      representatives,
      kept: await keptByCache(compressor, rows),
    }),
  }
}

/** Query heads and their attention, as a cache shows it to the stage. */
async function votersOf(rows: PromptRows, window: number, all: ReturnType<typeof asRows>): Promise<readonly Voter[]> {
  const perHead = {
    ...rows,
    keys: onQueryHeads(rows.keys, rows.queries),
    values: onQueryHeads(rows.values, rows.queries),
  }
  const { shape, data } = await scoresOf(scorerOf(byAttention(window, 1), modelOf(perHead)), perHead)
  const [queryHeads = 0, tokens = 0] = shape
  return Array.from({ length: queryHeads }, (_, head) => {
    const own = all[Math.floor((head * all.length) / queryHeads)]
    return own ? [{ scores: data.slice(head * tokens, (head + 1) * tokens) as Float32Array, rows: own }] : []
  }).flat()
}

/** Every query head's rows, so that each is a KV head of its own. */
function onQueryHeads({ shape, data }: NdArray, queries: NdArray): NdArray {
  const [kvHeads = 0, tokens = 0, dim = 0] = shape
  const [queryHeads = 0] = queries.shape
  const size = tokens * dim
  const all = new Float32Array(queryHeads * size)
  for (let head = 0; head < queryHeads; head++) {
    const at = Math.floor((head * kvHeads) / queryHeads) * size
    all.set(data.subarray(at, at + size), head * size)
  }
  return { shape: [queryHeads, tokens, dim], data: all }
}
