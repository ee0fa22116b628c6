/** Which policy a head needs: how much of its attention each one keeps, over all queries of the prompt. */
import type { Marks, Policy } from './policies'

/** Attention of one KV head's prompt (mean over its query heads), summed over queries. */
export interface AttentionSums {
  /** How many queries were summed, those of the newest tokens. Default: one per token. */
  readonly queries?: number
  /** `[tokens]`: attention that a token gets from all queries. */
  readonly all: Float64Array
  /** By width w, `[tokens]`: attention that a token gets from its own query and the w - 1 that follow. */
  readonly within: ReadonlyMap<number, Float64Array>
}

/** Tokens of the window of a policy; at least one. */
export const windowWidth = ({ window }: Policy, length: number): number =>
  window > 0 ? Math.max(1, Math.trunc(window * length)) : 0

/** The window widths that profiling a prompt of so many tokens looks at. */
export const profiledWidths = (policies: readonly Policy[], tokens: number): readonly number[] => [
  ...new Set(policies.map((policy) => windowWidth(policy, tokens)).filter((width) => width > 0)),
]

/** Mean attention over the queries that could see a token, `[tokens]`. */
export const meanAttention = ({ all, queries = all.length }: AttentionSums): Float64Array =>
  all.map((sum, i) => sum / Math.min(queries, all.length - i))

/** What a policy keeps of a prompt. */
export interface Kept {
  /** `[tokens]`: kept for every query. */
  readonly always: Uint8Array
  /** Newest tokens kept besides. */
  readonly width: number
}

/**
 * Heavy tokens are the most attended ones that nothing else keeps at the end of the prompt; of equal ones the first.
 * @param length what window and heavy are fractions of
 */
export function keptBy(policy: Policy, mean: Float64Array, marks: Marks, globalTokens: number, length: number): Kept {
  const tokens = mean.length
  if (policy.full) return { always: new Uint8Array(tokens).fill(1), width: 0 }
  const always = new Uint8Array(tokens).fill(1, 0, globalTokens)
  for (let i = 0; i < tokens; i++)
    if ((policy.special && marks.special[i]) || (policy.punctuation && marks.punctuation[i])) always[i] = 1
  const width = windowWidth(policy, length)
  if (policy.heavy > 0) {
    const free = [...always.keys()].filter((i) => !always[i] && i < tokens - width)
    const ranked = free.sort((a, b) => (mean[b] ?? 0) - (mean[a] ?? 0) || a - b)
    for (const i of ranked.slice(0, Math.ceil(Math.min(policy.heavy * length, free.length)))) always[i] = 1
  }
  return { always, width }
}

/** Mean over queries of the attention that a policy keeps, in 0 … 1. */
export function recoveryOf(policy: Policy, sums: AttentionSums, marks: Marks, globalTokens: number): number {
  const tokens = sums.all.length
  const { always, width } = keptBy(policy, meanAttention(sums), marks, globalTokens, tokens)
  const near = sums.within.get(width)
  let mass = 0
  for (let i = 0; i < tokens; i++) mass += (always[i] ? sums.all[i] : near?.[i]) ?? 0
  return mass / (sums.queries ?? tokens)
}

/**
 * The first policy that keeps enough; the last one where none does (rounding, at a recovery near 1).
 * @param otherwise what to take where none does
 */
export function choosePolicy(
  recoveries: readonly number[],
  minRecovery: number,
  otherwise = recoveries.length - 1,
): number {
  const first = recoveries.findIndex((recovery) => recovery >= minRecovery)
  return first < 0 ? otherwise : first
}

/** The rows that a head keeps of the prompt, `[tokens]`. */
export function keepMask(
  policy: Policy,
  mean: Float64Array,
  marks: Marks,
  globalTokens: number,
  length: number,
): Uint8Array {
  const { always, width } = keptBy(policy, mean, marks, globalTokens, length)
  return always.fill(1, Math.max(0, mean.length - width))
}
