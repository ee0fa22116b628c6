/** The rows of a comparison, however they are written. */
import { checkCompressor, type KVCompressor, OptionError } from '@kvloom/core'
import type { Composition } from '../run/options'

/** What can be compared: compressors, rows with a name, or both by name. */
export type Compositions = readonly (KVCompressor | Composition)[] | Readonly<Record<string, KVCompressor>>

/** @throws OptionError for what is neither; the same name twice is numbered, since two rows could not be told apart */
export function rowsOf(given: Compositions): readonly Composition[] {
  if (typeof given !== 'object' || given === null)
    throw new OptionError('compare', 'compositions', given, 'a list of compressors, or compressors by name')
  const rows = isList(given)
    ? given.map((each) => rowOf(each))
    : Object.entries(given).map(([name, compressor]) => named(name, compressor))
  if (rows.length === 0) throw new OptionError('compare', 'compositions', [], 'at least one')
  const seen = new Map<string, number>()
  return rows.map((row) => {
    const times = (seen.get(row.name) ?? 0) + 1
    seen.set(row.name, times)
    return times === 1 ? row : { ...row, name: `${row.name} #${times}` }
  })
}

const isList = (given: Compositions): given is readonly (KVCompressor | Composition)[] => Array.isArray(given)

function rowOf(each: KVCompressor | Composition): Composition {
  if (typeof each === 'object' && each !== null && 'compressor' in each) {
    const { name, compressor } = each
    checkCompressor(`compare, row ${String(name)}`, compressor)
    return { ...each, name: name ?? compressor.card.name }
  }
  return named(undefined, each)
}

function named(name: string | undefined, compressor: KVCompressor): Composition {
  checkCompressor(name === undefined ? 'compare' : `compare, row ${name}`, compressor)
  return { name: name ?? compressor.card.name, compressor }
}
