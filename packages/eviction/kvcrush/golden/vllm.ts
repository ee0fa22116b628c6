/** The port for vLLM: pages, signatures over the KV heads of all tokens of a page. */
import {
  compareArrays,
  compareNamed,
  type GoldenCase,
  keptByCache,
  modelOf,
  type NdArray,
  numberOption,
  type Outcome,
  scorerOf,
  scoresOf,
} from '@kvloom/golden'
import { choosePages, compare, rowsByPage } from '../src/choose'
import { byDistance, distancesTo, ranksOf } from '../src/signatures'
import { anchorOption, asRows, byAttention, crushed, integerRow, integers, promptOf } from './host'

export async function vllm(golden: GoldenCase): Promise<Outcome> {
  const rows = await promptOf(golden)
  const [page, window] = [numberOption(golden, 'page_size'), numberOption(golden, 'window')]
  const [sinks, recent] = [numberOption(golden, 'start_size'), numberOption(golden, 'recent_size')]
  const [budget, share] = [numberOption(golden, 'max_capacity'), numberOption(golden, 'share')]
  const options = { share, page, sinks, recent, anchor: anchorOption(golden) }
  const compressor = crushed(byAttention(window, sinks + budget + recent), options)
  const parts = { ...options, spacing: 'even', seed: 0 } as const

  const scores = await scoresOf(scorerOf(compressor, modelOf(rows)), rows)
  const all = asRows(scores, sinks, recent)
  const given = golden.has('random_anchor') ? Uint8Array.from((await golden.input('random_anchor')).data) : null
  const { region, signatures, ...drawn } = compare(
    all,
    all.map((own) => ({ scores: own.scores, rows: own })),
    parts,
  )
  const anchor = given ?? drawn.anchor
  const distances = distancesTo(anchor, signatures)
  const pages = all.map((own) => rowsByPage(own, region, page))
  const chosen = all.map((own, head) => choosePages(own, pages[head] ?? [], distances, budget, parts))
  const sums = all.flatMap((own, head) =>
    (pages[head] ?? []).map((held) => held.reduce((sum, row) => sum + (own.scores[row] ?? 0), 0)),
  )

  // The port leaves out only what head 0 keeps, and gives every head the same representatives.
  const first = new Set(chosen[0]?.important)
  const eligible = byDistance(
    Array.from({ length: region.pages }, (_, at) => at).filter((at) => !first.has(at)),
    distances,
  )
  const ranks = ranksOf(eligible.length, Math.trunc(Math.trunc(share * budget) / page), 'even')
  const shared = ranks.map((rank) => eligible[rank] ?? 0)
  const [tokens = 0] = scores.shape.slice(1)
  const kept = integers(
    chosen.map(({ important }) => {
      const ofPages = [...important, ...shared].flatMap((at) =>
        Array.from({ length: page }, (_, i) => region.from + at * page + i),
      )
      const always = Array.from({ length: tokens }, (_, i) => i).filter((i) => i < sinks || i >= tokens - recent)
      return [...always, ...ofPages].sort((a, b) => a - b)
    }),
  )
  const tensors = await compareNamed(golden, {
    token_scores: scores,
    page_scores: { shape: [all.length, region.pages], data: Float32Array.from(sums) },
    host_pages: integers(chosen.map(({ important }) => important)),
    bits: { shape: [region.pages, signatures.width], data: Int32Array.from(signatures.bits) },
    anchor: integerRow(anchor),
    distances: integerRow(distances),
    sorted_eligible: integerRow(eligible),
    rep_ranks: integerRow(ranks),
    rep_pages: integerRow(shared),
    kept,
  })
  if (given) return { tensors, message: 'bits of the anchor are given, so no cache draws them' }
  // Head 0 of a cache keeps what head 0 of the port keeps; the others represent what themselves would drop.
  const held = headOf(await keptByCache(compressor, rows), 0)
  return {
    tensors: [
      ...tensors,
      compareArrays('kept (head 0 of a cache)', held, headOf(await golden.expected('kept'), 0), {}),
    ],
  }
}

function headOf({ shape, data }: NdArray, head: number): NdArray {
  const [, kept = 0] = shape
  return { shape: [kept], data: data.slice(head * kept, (head + 1) * kept) }
}
