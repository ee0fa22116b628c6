/** compare() of `@kvloom/eval`, with compositions as text besides. */
import type { KVCompressor } from '@kvloom/core'
import {
  type CompareOptions as BuiltOptions,
  type Composition,
  compare as compareBuilt,
  type Report,
} from '@kvloom/eval'
import { composition } from '@kvloom/methods'

/** What can be compared: texts such as `snapkv(keep=0.5)+kivi(bits=2)`, compressors, rows with a name, or any of them by name. */
export type Compositions =
  | readonly (string | KVCompressor | Composition)[]
  | Readonly<Record<string, string | KVCompressor>>

export interface CompareOptions extends Omit<BuiltOptions, 'compositions'> {
  readonly compositions: Compositions
}

/**
 * Compares compositions with an uncompressed cache: quality, the bytes really held, and time. A text is a row of that name.
 * @returns the report, for `renderTable`, `renderHtml` and `writeReport`
 * @throws CompositionError for a text that cannot be read; what `compose` refuses; what `compare` of `@kvloom/eval` throws
 */
export async function compare(options: CompareOptions): Promise<Report> {
  if (typeof options !== 'object' || options === null) return compareBuilt(options)
  return compareBuilt({ ...options, compositions: built(options.compositions) })
}

/** What is no text is left to `compareBuilt`, which refuses what is wrong. */
function built(given: Compositions): BuiltOptions['compositions'] {
  if (isList(given)) return given.map(rowOf)
  if (typeof given !== 'object' || given === null) return given
  return Object.fromEntries(
    Object.entries(given).map(([name, each]) => [name, typeof each === 'string' ? composition(each) : each]),
  )
}

const isList = (given: Compositions): given is readonly (string | KVCompressor | Composition)[] => Array.isArray(given)

const rowOf = (each: string | KVCompressor | Composition): KVCompressor | Composition =>
  typeof each === 'string' ? { name: each, compressor: composition(each) } : each
