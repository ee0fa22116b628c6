/** The port for OpenVINO GenAI: blocks, one row of scores per layer, representatives beside what its own eviction leaves. */
import {
  compareNamed,
  type GoldenCase,
  keptByCache,
  type NdArray,
  numberOption,
  type Outcome,
  textOption,
} from '@kvloom/golden'
import { choosePages, compare, type Rows, rowsByPage } from '../src/choose'
import { anchorOption, asRows, byScores, crushed, integerRow, seedOption } from './host'
import { unitVectors } from './unit-vectors'

export async function openVino(golden: GoldenCase): Promise<Outcome> {
  if (golden.scalars['distance_case'] !== undefined) return unitVectors(golden)
  const [block, budget] = [numberOption(golden, 'block_size'), numberOption(golden, 'kvcrush_budget_blocks')]
  const [sinks, recent] = [numberOption(golden, 'start_size'), numberOption(golden, 'recent_size')]
  const most = numberOption(golden, 'max_cache_size')
  const scores = accumulated(await golden.input('layer_scores'), sinks, numberOption(golden, 'max_pool_window'))
  const tokens = scores.length
  const own = asRows({ shape: [1, tokens], data: scores }, sinks, recent)
  const [rows] = own
  if (!rows) throw new Error('one row was made')
  const free = (most - sinks - recent) / block
  // The port's budget stands beside that of its eviction; here both are one budget and a share of it.
  const parts = {
    share: budget / (free + budget),
    page: block,
    spacing: 'stride',
    anchor: anchorOption(golden),
    seed: seedOption(golden),
  } as const
  const { region, signatures, anchor, distances } = compare(own, [{ scores: rows.scores, rows }], parts)
  const held = rowsByPage(rows, region, block)
  const { important, representatives } = choosePages(rows, held, distances, (free + budget) * block, parts)
  const keptBlocks = new Set(
    [...(await heldByCache(scores, most + budget * block, { ...parts, sinks, recent }))].map((at) =>
      Math.floor(at / block),
    ),
  )
  const evictable = Array.from({ length: region.pages }, (_, at) => at + sinks / block)
  return {
    tensors: await compareNamed(golden, {
      accumulated: { shape: [tokens - sinks], data: scores.slice(sinks) },
      counters: countersOf(golden, rows, sinks),
      indicators: integerRow(signatures.bits.subarray(0, region.pages * block)),
      anchor: integerRow(anchor),
      distances: integerRow(distances),
      representatives: integerRow(representatives),
      host_evicted: integerRow(evictable.filter((at) => !important.includes(at - sinks / block))),
      evicted: integerRow(evictable.filter((at) => !keptBlocks.has(at))),
    }),
  }
}

/** The largest score of each token and those behind it, `window` in all; the first `sinks` are not looked at. */
function accumulated({ data }: NdArray, sinks: number, window: number): Float32Array {
  return Float32Array.from(data, (score, i) => (i < sinks ? score : Math.max(...data.subarray(i, i + window))))
}

/** How many of the counted queries each token has seen: the divisor of the port's own eviction, the same for every token that may go. */
function countersOf(golden: GoldenCase, { scores }: Rows, sinks: number): NdArray {
  if (textOption(golden, 'aggregation', '') !== 'norm_sum') return { shape: [0], data: new Float32Array(0) }
  const window = numberOption(golden, 'snapkv_window')
  return integerRow(Array.from(scores.subarray(sinks), (_, i) => Math.min(window, scores.length - sinks - i)))
}

/** Positions that a cache of one head holds. */
async function heldByCache(
  scores: Float32Array,
  count: number,
  options: Parameters<typeof crushed>[1],
): Promise<Int32Array> {
  const row = { shape: [1, scores.length, 1], data: new Float32Array(scores.length) }
  const kept = await keptByCache(crushed(byScores(scores, count), options), { queries: row, keys: row, values: row })
  return Int32Array.from(kept.data)
}
