/** Reads the options of a case with their types checked. */
import type { KVCompressor } from '@kvloom/core'
import { GoldenError } from './errors'
import type { GoldenCase } from './schema'

export function numberOption(golden: GoldenCase, name: string, otherwise?: number): number {
  const value = golden.options[name] ?? otherwise
  if (typeof value !== 'number') throw new GoldenError(`Case ${golden.name} gives no number for the option ${name}.`)
  return value
}

export function numbersOption(golden: GoldenCase, name: string, otherwise?: readonly number[]): readonly number[] {
  const value = golden.options[name] ?? otherwise
  if (!Array.isArray(value) || !value.every((n): n is number => typeof n === 'number'))
    throw new GoldenError(`Case ${golden.name} gives no list of numbers for the option ${name}.`)
  return value
}

export function textOption(golden: GoldenCase, name: string, otherwise: string): string {
  const value = golden.options[name] ?? otherwise
  if (typeof value !== 'string') throw new GoldenError(`Case ${golden.name} gives no text for the option ${name}.`)
  return value
}

/** Makes a method with options that come from data. They may be of any type, since the method checks them itself. */
export const makeWith = (
  method: (options?: never) => KVCompressor,
  options: Readonly<Record<string, unknown>>,
): KVCompressor => method(options as never)
