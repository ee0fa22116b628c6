/** The kinds of stage, when they act and on what. */
import type { Part } from './values'

/** The kinds of stage, in the order of a token's life. */
export const KINDS = [
  'model',
  'score',
  'budget',
  'pick',
  'resample',
  'transform',
  'predict',
  'quantize',
  'recall',
] as const

export type Kind = (typeof KINDS)[number]

/**
 * When a stage acts: at load; before an append (`room`); after every append, each chunk of a prompt and its end included (`step`); once at the
 * end of the prompt (`promptEnd`); at sealing; at reading; or whenever a multiple of n tokens is reached, and at the end of the prompt.
 */
export type When = 'load' | 'room' | 'step' | 'promptEnd' | 'seal' | 'read' | { readonly everyTokens: number }

/** Where a stage acts: one part or both, these layers or all but those. */
export interface ActsOn {
  readonly part?: Part
  readonly layers?: readonly number[]
  readonly except?: readonly number[]
}
