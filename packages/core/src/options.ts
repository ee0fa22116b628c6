/** Options as data: one declaration validates, documents and parses them (docs tables, command line). */
import { nearestName } from '@kvloom/errors'
import { OptionError } from './errors'

export interface OptionSpec<T> {
  readonly default: T
  /** What it does and in which unit, in one line for the table of the docs. */
  readonly doc: string
  /** What is allowed, in words. */
  readonly allowed: string
  readonly valid: (value: unknown) => value is T
}
/** What an option takes, without a default. */
export type OptionKind<T> = Omit<OptionSpec<T>, 'default'>
export type OptionSchema = Readonly<Record<string, OptionSpec<unknown>>>
export type OptionsOf<S extends OptionSchema> = {
  readonly [K in keyof S]: S[K] extends OptionSpec<infer T> ? T : never
}

const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value)

/** Declares an option that takes a whole number in [min, max]. Without a default it is for `optional`. */
export function integer(o: Integer & { readonly default: number }): OptionSpec<number>
export function integer(o: Integer): OptionKind<number>
export function integer({ min, max, ...o }: Integer): OptionKind<number> {
  return {
    ...o,
    allowed: max === undefined ? `a whole number from ${min}` : `a whole number from ${min} to ${max}`,
    valid: (v): v is number => isNumber(v) && Number.isInteger(v) && v >= min && v <= (max ?? Infinity),
  }
}
interface Integer {
  readonly min: number
  readonly max?: number
  readonly doc: string
}

/** Declares an option that takes a number above 0 and at most 1. Without a default it is for `optional`. */
export function fraction(o: { readonly default: number; readonly doc: string }): OptionSpec<number>
export function fraction(o: { readonly doc: string }): OptionKind<number>
export function fraction(o: { readonly doc: string }): OptionKind<number> {
  return {
    ...o,
    allowed: 'a number above 0 and at most 1',
    valid: (v): v is number => isNumber(v) && v > 0 && v <= 1,
  }
}

/** Declares an option that is true or false. In a composition as text its bare name says true. */
export const flag = (o: { readonly default: boolean; readonly doc: string }): OptionSpec<boolean> => ({
  ...o,
  allowed: 'true, false',
  valid: (v): v is boolean => typeof v === 'boolean',
})

/**
 * Declares an option that may be left out. Its value is null then, which no number stands for.
 * @param kind what it takes otherwise, such as `integer({ min: 1, doc })`
 * @param leftOut what happens where it is left out, in a few words: `as bits`
 */
export const optional = <T>(kind: OptionKind<T>, leftOut: string): OptionSpec<T | null> => ({
  default: null,
  doc: kind.doc,
  allowed: `${kind.allowed}; left out: ${leftOut}`,
  valid: (v): v is T | null => v === null || kind.valid(v),
})

/** Declares an option that takes one of a few literals. */
export const oneOf = <const T extends string | number>(
  values: readonly T[],
  o: { default: NoInfer<T>; doc: string },
): OptionSpec<T> => ({
  default: o.default,
  doc: o.doc,
  allowed: values.map((v) => JSON.stringify(v)).join(', '),
  valid: (v): v is T => (values as readonly unknown[]).includes(v),
})

/** Declares an option that takes a list of layer numbers, of any length or of `least` at least. Without a default it is for `optional`. */
export function layerList(o: Layers & { readonly default: readonly number[] }): OptionSpec<readonly number[]>
export function layerList(o: Layers): OptionKind<readonly number[]>
export function layerList({ least = 0, ...o }: Layers): OptionKind<readonly number[]> {
  return {
    ...o,
    allowed: `a list of ${least > 0 ? `${least} or more ` : ''}layer numbers from 0`,
    valid: (v): v is readonly number[] =>
      Array.isArray(v) && v.length >= least && v.every((n) => isNumber(n) && Number.isInteger(n) && n >= 0),
  }
}
interface Layers {
  readonly least?: number
  readonly doc: string
}

/** @throws OptionError for anything but an object, and for a name that `known` lacks, with the nearest one. */
export function refuseUnknown(method: string, given: object, known: readonly string[]): void {
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw new OptionError(method, 'options', given, `an object of options: ${known.join(', ') || '(none)'}`)
  // Inherited names count too, so that `{ __proto__: { bits: 2 } }` does not set an option that nobody sees.
  const inherited = Object.getPrototypeOf(given)
  const strange = inherited !== null && Object.getPrototypeOf(inherited) !== null
  const wrong = strange ? '__proto__' : Reflect.ownKeys(given).find((name) => !known.includes(name as string))
  if (wrong === undefined) return
  const near = nearestName(String(wrong), known)
  throw new OptionError(
    method,
    String(wrong),
    strange ? inherited : Reflect.get(given, wrong),
    `one of the options ${known.join(', ') || '(none)'}`,
    near === null ? '' : `Did you mean "${near}"?`,
  )
}

/** Fills defaults and checks every option. @throws OptionError naming method, option, what was given and what is allowed. */
export function parseOptions<S extends OptionSchema>(
  method: string,
  schema: S,
  given: Partial<OptionsOf<S>> = {},
): OptionsOf<S> {
  refuseUnknown(method, given, Object.keys(schema))
  const parsed: Record<string, unknown> = {}
  for (const [name, spec] of Object.entries(schema)) {
    const asked: unknown = Object.hasOwn(given, name) ? Reflect.get(given, name) : undefined
    const value = asked === undefined ? spec.default : asked
    if (!spec.valid(value)) throw new OptionError(method, name, value, spec.allowed)
    parsed[name] = value
  }
  return Object.freeze(parsed) as OptionsOf<S>
}
