/** What a head may keep, and which tokens of a prompt are special or punctuation. */
import type { TokenPattern } from './options'

/** A policy keeps the union of its parts, and the first tokens of the text. */
export interface Policy {
  readonly special: boolean
  readonly punctuation: boolean
  /** Fraction of the length: the tokens of largest mean attention. 0: none. */
  readonly heavy: number
  /** Fraction of the length: the newest tokens. 0: none. */
  readonly window: number
  /** Everything. */
  readonly full: boolean
}

const policy = (parts: Partial<Policy>): Policy => ({
  special: false,
  punctuation: false,
  heavy: 0,
  window: 0,
  full: false,
  ...parts,
})

/** The policies of a preset, cheapest first. The last one is feasible whatever a head attends to. */
export function policiesOf(preset: 'fastgen' | 'hybrid', window: number, heavy: number): readonly Policy[] {
  if (preset === 'hybrid')
    return [
      policy({ window: 0.1 }),
      policy({ window: 0.1, heavy: 0.25 }),
      policy({ window: 0.1, heavy: 0.5 }),
      policy({ full: true }),
    ]
  const marked = { special: true, punctuation: true }
  return [
    policy({ special: true }),
    policy(marked),
    policy({ ...marked, heavy }),
    policy({ ...marked, heavy, window }),
    policy({ full: true }),
  ]
}

/** Marks of the tokens of a text, 1 or 0 each. */
export interface Marks {
  readonly special: Uint8Array
  readonly punctuation: Uint8Array
}

/** A marker of several tokens is matched as a whole. */
export function marksOf(
  tokens: Int32Array,
  specialIds: readonly TokenPattern[],
  punctuationIds: readonly number[],
): Marks {
  const special = new Uint8Array(tokens.length)
  for (const pattern of specialIds) {
    const ids = typeof pattern === 'number' ? [pattern] : pattern
    for (let at = 0; at + ids.length <= tokens.length; at++)
      if (ids.every((id, i) => tokens[at + i] === id)) special.fill(1, at, at + ids.length)
  }
  const known = new Set(punctuationIds)
  const punctuation = new Uint8Array(tokens.length)
  for (let i = 0; i < tokens.length; i++) if (known.has(tokens[i] ?? -1)) punctuation[i] = 1
  return { special, punctuation }
}
