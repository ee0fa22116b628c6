/**
 * ReCalKV's ranks from Fisher information ("fisher_uniform" of the authors' code): every projection gets a share of the budget in proportion
 * to its own; values usually have more of it than keys.
 */
import type { Part } from '@kvloom/core'

export interface RankBudget {
  /** The fraction of all channels that is kept. */
  readonly keep: number
  /** Channels of a projection: KV heads · dim. */
  readonly width: Readonly<Record<Part, number>>
  readonly groups: number
  /** Ranks are rounded to multiples of it, half to even, and are at least one of it. */
  readonly block: number
}

/** Per layer, of one group. */
export type LayerRanks = Readonly<Record<Part, Int32Array>>

const PARTS: readonly Part[] = ['keys', 'values']

/**
 * The rank of one group of every layer and part, before and after rounding. What whole shares leave over goes out one by one, largest rest
 * first; where the budget is no whole number a begun round is finished, as in the authors' code.
 * @param fisher one number per layer
 */
export function fisherRanks(
  fisher: Readonly<Record<Part, ArrayLike<number>>>,
  { keep, width, groups, block }: RankBudget,
): { readonly raw: LayerRanks; readonly ranks: LayerRanks } {
  const layers = fisher.keys.length
  const units = Array.from({ length: layers }, (_, layer) => PARTS.map((part) => ({ layer, part }))).flat()
  const total = units.reduce((sum, { layer, part }) => sum + (fisher[part][layer] ?? 0), 0)
  const budget = keep * layers * (width.keys + width.values)
  const raw = { keys: new Int32Array(layers), values: new Int32Array(layers) }
  const shares = units.map(({ layer, part }) => {
    const share = total > 0 ? (budget * (fisher[part][layer] ?? 0)) / total : keep * width[part]
    raw[part][layer] = Math.min(width[part], Math.floor(share))
    return { layer, part, rest: share - (raw[part][layer] ?? 0) }
  })
  shares.sort((a, b) => b.rest - a.rest)
  const given = (x: LayerRanks) => PARTS.reduce((sum, part) => sum + x[part].reduce((a, b) => a + b, 0), 0)
  let left = budget - given(raw)
  while (left > 0 && units.some(({ layer, part }) => (raw[part][layer] ?? 0) < width[part]))
    for (const { layer, part } of shares) {
      const rank = raw[part][layer] ?? 0
      if (rank === width[part]) continue
      raw[part][layer] = rank + 1
      left--
      if (left === 0) break
    }
  const split = (x: Int32Array) => x.map((rank) => Math.floor(rank / groups))
  const perGroup = { keys: split(raw.keys), values: split(raw.values) }
  const rounded = (x: Int32Array) => x.map((rank) => roundedRank(rank, block))
  return { raw: perGroup, ranks: { keys: rounded(perGroup.keys), values: rounded(perGroup.values) } }
}

/** The nearest multiple of a block, half to even, and at least one block. */
export function roundedRank(rank: number, block: number): number {
  const blocks = rank / block
  const down = Math.floor(blocks)
  const nearest = blocks - down === 0.5 ? down + (down % 2) : Math.round(blocks)
  return Math.max(1, nearest) * block
}
