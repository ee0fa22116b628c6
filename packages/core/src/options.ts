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
export type OptionSchema = Readonly<Record<string, OptionSpec<unknown>>>
export type OptionsOf<S extends OptionSchema> = {
  readonly [K in keyof S]: S[K] extends OptionSpec<infer T> ? T : never
}

const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value)

/** Declares an option that takes a whole number in [min, max]. */
export const integer = (o: { default: number; min: number; max?: number; doc: string }): OptionSpec<number> => ({
  default: o.default,
  doc: o.doc,
  allowed: o.max === undefined ? `a whole number from ${o.min}` : `a whole number from ${o.min} to ${o.max}`,
  valid: (v): v is number => isNumber(v) && Number.isInteger(v) && v >= o.min && v <= (o.max ?? Infinity),
})

/** Declares an option that takes a number above 0 and at most 1. */
export const fraction = (o: { default: number; doc: string }): OptionSpec<number> => ({
  default: o.default,
  doc: o.doc,
  allowed: 'a number above 0 and at most 1',
  valid: (v): v is number => isNumber(v) && v > 0 && v <= 1,
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

/** Declares an option that takes a list of layer numbers. */
export const layerList = (o: { default: readonly number[]; doc: string }): OptionSpec<readonly number[]> => ({
  default: o.default,
  doc: o.doc,
  allowed: 'a list of layer numbers from 0',
  valid: (v): v is readonly number[] =>
    Array.isArray(v) && v.every((n) => isNumber(n) && Number.isInteger(n) && n >= 0),
})

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
