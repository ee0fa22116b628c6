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
  'lossless',
] as const

export type Kind = (typeof KINDS)[number]

/** Kinds that drop tokens. */
export const DROPPING: readonly Kind[] = ['score', 'pick']
/** Kinds that make what is sealed of a row, in their order. */
export const SEALING = ['transform', 'predict', 'quantize'] as const

/**
 * When a stage acts.
 *
 * | value | moment |
 * |---|---|
 * | `load` | when the model is loaded |
 * | `room` | before new rows are appended |
 * | `step` | after every append: each decoded token, each chunk of a prompt |
 * | `promptEnd` | after the last chunk of a prompt |
 * | `seal` | when rows leave the window |
 * | `read` | when a query reads what is stored |
 * | `leave` | when rows leave the device: to host memory, or to a file |
 * | `{ everyTokens: n }` | after an append that reaches or passes a multiple of n tokens, and after the last chunk of a prompt |
 */
export type When = 'load' | 'room' | 'step' | 'promptEnd' | 'seal' | 'read' | 'leave' | { readonly everyTokens: number }

/** Where a stage acts: one part or both, these layers or all but those. */
export interface ActsOn {
  readonly part?: Part
  readonly layers?: readonly number[]
  readonly except?: readonly number[]
}
