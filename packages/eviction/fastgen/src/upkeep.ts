/** What a head does with a token that comes after the prompt: keep it, drop another one for it, or drop it. */
import { roundHalfEven } from '@kvloom/kernels'
import type { Policy } from './policies'

/** The rows that a head holds, in the order of the text. */
export interface HeldRows {
  /** Original positions. */
  readonly positions: ArrayLike<number>
  /** Special tokens of the prompt, and punctuation: 1 or 0 each. */
  readonly special: ArrayLike<number>
  readonly punctuation: ArrayLike<number>
  /** Mean attention so far. */
  readonly mean: ArrayLike<number>
}

/** What a head may hold. */
export interface Allowance {
  readonly globalTokens: number
  /** Special tokens of the prompt; punctuation so far. */
  readonly special: number
  readonly punctuation: number
  /** What window and heavy are fractions of. */
  readonly windowLength: number
  readonly heavyLength: number
}

/** The rows a policy makes room for. */
export function budgetOf(policy: Policy, allowed: Allowance): number {
  if (policy.full) return Number.POSITIVE_INFINITY
  return (
    allowed.globalTokens +
    (policy.special ? allowed.special : 0) +
    (policy.punctuation ? allowed.punctuation : 0) +
    roundHalfEven(policy.window * allowed.windowLength) +
    roundHalfEven(policy.heavy * allowed.heavyLength)
  )
}

/**
 * @param incoming position of the new token and whether it is punctuation; it is not among `held` yet
 * @returns `append`, `skip` (the new token is not stored), or the index of the row that goes for it
 */
export function upkeep(
  policy: Policy,
  held: HeldRows,
  incoming: { readonly position: number; readonly punctuation: boolean },
  allowed: Allowance,
): 'append' | 'skip' | number {
  if (policy.punctuation && incoming.punctuation) return 'append'
  if (held.positions.length < budgetOf(policy, allowed)) return 'append'
  if (policy.heavy === 0 && policy.window === 0) return 'skip'
  const recent = incoming.position - roundHalfEven(policy.window * allowed.windowLength)
  let [lowest, worst] = [Number.POSITIVE_INFINITY, -1]
  for (let i = allowed.globalTokens; i < held.positions.length; i++) {
    const position = held.positions[i] ?? 0
    const stays =
      (policy.special && held.special[i]) ||
      (policy.punctuation && held.punctuation[i]) ||
      (policy.window > 0 && position > recent)
    const score = (policy.heavy > 0 ? held.mean[i] : position) ?? 0
    if (stays || score >= lowest) continue
    lowest = score
    worst = i
  }
  return worst < 0 ? 'append' : worst
}
