/** Which rows of a lane stay: those that the scorer finds important, and representatives of the others. */
import type { OptionsOf } from '@kvloom/core'
import type { kvcrushOptions } from './options'
import { anchorOf, betterHalf, byDistance, distancesTo, largest, ranksOf, type Signatures } from './signatures'

type Options = OptionsOf<typeof kvcrushOptions>

/** Rows of one choice: of a KV head, or of all heads where they share one set of tokens. */
export interface Rows {
  /** Per stored row; +infinity for one that stays in any case, -infinity for one that is gone. */
  readonly scores: Float32Array
  /** The original position of each row. */
  readonly positions: Int32Array
}

/** Scores of the heads that give a signature its bits. */
export interface Voter {
  /** Per stored row. */
  readonly scores: Float32Array
  /** The rows that they are of. */
  readonly rows: Rows
}

/** Rows that may go, by their place between the first and the last of them. */
export interface Region {
  /** Original position of the first. */
  readonly from: number
  readonly pages: number
}

const mayGo = ({ scores }: Rows): number[] => [...scores.keys()].filter((row) => Number.isFinite(scores[row]))

/** The pages of all rows that may go. Where heads hold different tokens, a page has the same positions in each of them. */
export function regionOf(all: readonly Rows[], page: number): Region {
  let [from, to] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
  for (const rows of all)
    for (const row of mayGo(rows)) {
      const position = rows.positions[row] ?? 0
      from = Math.min(from, position)
      to = Math.max(to, position + 1)
    }
  return { from, pages: Math.ceil(Math.max(0, to - from) / page) }
}

/**
 * Signatures of all pages: bits of the tokens of a page one behind the other, of each token a bit per voter. A token that a voter does
 * not hold, or that cannot go, has bit 0.
 */
export function signaturesOf(voters: readonly Voter[], { from, pages }: Region, page: number): Signatures {
  const width = page * voters.length
  const bits = new Uint8Array(pages * width)
  for (const [voter, { scores, rows }] of voters.entries()) {
    const candidates = mayGo(rows)
    const own = betterHalf(candidates.map((row) => scores[row] ?? 0))
    for (const [i, row] of candidates.entries())
      bits[((rows.positions[row] ?? 0) - from) * voters.length + voter] = own[i] ?? 0
  }
  return { bits, width }
}

/** The pages of a lane and how far each is from the anchor. */
export interface Compared {
  readonly region: Region
  readonly signatures: Signatures
  readonly anchor: Uint8Array
  /** Per page. */
  readonly distances: Int32Array
}

export function compare(
  all: readonly Rows[],
  voters: readonly Voter[],
  { page, anchor, seed }: Pick<Options, 'page' | 'anchor' | 'seed'>,
): Compared {
  const region = regionOf(all, page)
  const signatures = signaturesOf(voters, region, page)
  const bits = anchorOf(signatures, anchor, seed)
  return { region, signatures, anchor: bits, distances: distancesTo(bits, signatures) }
}

/** The stored rows of each page that may go. */
export function rowsByPage(rows: Rows, { from, pages }: Region, page: number): number[][] {
  const held: number[][] = Array.from({ length: pages }, () => [])
  for (const row of mayGo(rows)) held[Math.floor(((rows.positions[row] ?? 0) - from) / page)]?.push(row)
  return held
}

/** Splits a budget of rows into important pages, by the sum of their scores, and representatives of the other pages. Pages without rows are in neither. */
export function choosePages(
  { scores }: Rows,
  held: readonly (readonly number[])[],
  distances: Int32Array,
  budget: number,
  { page, share, spacing }: Pick<Options, 'page' | 'share' | 'spacing'>,
): { readonly important: readonly number[]; readonly representatives: readonly number[] } {
  const forOthers = Math.trunc(share * budget)
  const filled = [...held.keys()].filter((at) => (held[at]?.length ?? 0) > 0)
  const sums = filled.map((at) => (held[at] ?? []).reduce((sum, row) => sum + (scores[row] ?? 0), 0))
  const important = largest(sums, Math.trunc((budget - forOthers) / page)).map((i) => filled[i] ?? 0)
  const chosen = new Set(important)
  const eligible = byDistance(
    filled.filter((at) => !chosen.has(at)),
    distances,
  )
  const ranks = ranksOf(eligible.length, Math.trunc(forOthers / page), spacing)
  return { important, representatives: ranks.map((rank) => eligible[rank] ?? 0) }
}

/** A mask over the rows of each choice, with `count` ones. */
export function choose(all: readonly Rows[], voters: readonly Voter[], count: number, options: Options): Uint8Array[] {
  const { region, distances } = compare(all, voters, options)
  return all.map((rows) => chooseRows(rows, rowsByPage(rows, region, options.page), distances, count, options))
}

function chooseRows(
  rows: Rows,
  held: readonly (readonly number[])[],
  distances: Int32Array,
  count: number,
  options: Options,
): Uint8Array {
  const mask = Uint8Array.from(rows.scores, (score) => Number(score === Number.POSITIVE_INFINITY))
  const ones = () => mask.reduce((sum, bit) => sum + bit, 0)
  const { important, representatives } = choosePages(rows, held, distances, count - ones(), options)
  for (const at of [...important, ...representatives]) for (const row of held[at] ?? []) mask[row] = 1

  // What whole pages leave of the budget goes to the best single rows.
  const others = held.flat().filter((row) => mask[row] === 0)
  const scores = others.map((row) => rows.scores[row] ?? 0)
  for (const i of largest(scores, count - ones())) mask[others[i] ?? 0] = 1
  return mask
}
