// Typed access to untyped settings: metadata of a GGUF file, or a config.json.
import { ModelFileError } from '../errors'

/** What to do about a value that is missing or damaged. */
const damaged = 'The file is damaged or its converter left this out; fetch or convert it again.'
/** What to do about a value that is right, of a model that this engine does not compute. */
export const notComputed = 'The file may well be right, but this engine does not compute it; use another model.'

/** Reads settings by key; a missing or wrong value is `ModelFileError('BAD_METADATA')` that names file and key. */
export type SettingsReader = ReturnType<typeof settingsReader>

/** @param given the value of a key, undefined where the file has none; null counts as absent */
export function settingsReader(file: string, given: (key: string) => unknown) {
  const refuse = (key: string, allowed: string, cure = damaged): never => {
    const value = given(key)
    throw new ModelFileError('BAD_METADATA', {
      given: `${file}, ${key} ${value === undefined ? 'missing' : `= ${shown(value)}`}`,
      allowed,
      cure,
    })
  }
  const present = (key: string) => given(key) !== undefined && given(key) !== null
  return {
    given,
    present,
    refuse,
    count(key: string, fallback?: number): number {
      if (!present(key) && fallback !== undefined) return fallback
      const value = given(key)
      return isCount(value) ? value : refuse(key, 'a positive integer')
    },
    /** A count that a file may also give once for each layer; all must be equal. */
    uniformCount(key: string, layers: number, fallback?: number): number {
      const value = given(key)
      if (!Array.isArray(value)) return this.count(key, fallback)
      const [first] = value as unknown[]
      if (value.length !== layers || !isCount(first))
        return refuse(key, `a positive integer, or one for each of ${layers} layers`)
      if (value.some((each) => each !== first)) return refuse(key, 'the same number in every layer', notComputed)
      return first
    },
    number(key: string, fallback?: number): number {
      if (!present(key) && fallback !== undefined) return fallback
      const value = given(key)
      return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : refuse(key, 'a positive number')
    },
    /** A number of either sign. */
    anyNumber(key: string, fallback: number): number {
      if (!present(key)) return fallback
      const value = given(key)
      return typeof value === 'number' && Number.isFinite(value) ? value : refuse(key, 'a number')
    },
    optionalNumber(key: string): number | undefined {
      return present(key) ? this.number(key) : undefined
    },
    /** A block of settings, undefined where the file has none. */
    object(key: string): Readonly<Record<string, unknown>> | undefined {
      if (!present(key)) return undefined
      const value = given(key)
      const block = typeof value === 'object' && !Array.isArray(value)
      return block ? (value as Record<string, unknown>) : refuse(key, 'an object of settings, or null')
    },
    id(key: string): number | undefined {
      if (!present(key)) return undefined
      const value = given(key)
      return typeof value === 'number' && Number.isInteger(value) && value >= 0 ? value : refuse(key, 'a token id')
    },
    flag(key: string, fallback: boolean): boolean {
      if (!present(key)) return fallback
      const value = given(key)
      return typeof value === 'boolean' ? value : refuse(key, 'true or false')
    },
  }
}

const isCount = (value: unknown): value is number =>
  typeof value === 'number' && Number.isInteger(value) && value > 0 && value < 2 ** 31

/** A value as an error shows it: long lists are cut, and 64-bit integers, which JSON does not know, are written out. */
function shown(value: unknown): string {
  const text = JSON.stringify(value, (_, each: unknown) => (typeof each === 'bigint' ? String(each) : each))
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}
