/** Options as data: one declaration validates, documents and parses them (docs tables, command line). */
import { OptionError } from './errors'

export interface OptionSpec<T> {
  readonly default: T
  /** One line for the docs table: effect and unit. */
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

/** Whole number in [min, max]. */
export const integer = (o: { default: number; min: number; max?: number; doc: string }): OptionSpec<number> => ({
  default: o.default,
  doc: o.doc,
  allowed: o.max === undefined ? `a whole number from ${o.min}` : `a whole number from ${o.min} to ${o.max}`,
  valid: (v): v is number => isNumber(v) && Number.isInteger(v) && v >= o.min && v <= (o.max ?? Infinity),
})

/** Number in (above, max]. */
export const fraction = (o: { default: number; doc: string }): OptionSpec<number> => ({
  default: o.default,
  doc: o.doc,
  allowed: 'a number above 0 and at most 1',
  valid: (v): v is number => isNumber(v) && v > 0 && v <= 1,
})

/** One of a few literals. */
export const oneOf = <const T extends string | number>(
  values: readonly T[],
  o: { default: NoInfer<T>; doc: string },
): OptionSpec<T> => ({
  default: o.default,
  doc: o.doc,
  allowed: values.map((v) => JSON.stringify(v)).join(', '),
  valid: (v): v is T => (values as readonly unknown[]).includes(v),
})

/** List of layer numbers. */
export const layerList = (o: { default: readonly number[]; doc: string }): OptionSpec<readonly number[]> => ({
  default: o.default,
  doc: o.doc,
  allowed: 'a list of layer numbers from 0',
  valid: (v): v is readonly number[] =>
    Array.isArray(v) && v.every((n) => isNumber(n) && Number.isInteger(n) && n >= 0),
})

/** Fills defaults and checks every option. @throws OptionError naming method, option, what was given and what is allowed. */
export function parseOptions<S extends OptionSchema>(
  method: string,
  schema: S,
  given: Partial<OptionsOf<S>> = {},
): OptionsOf<S> {
  for (const name of Object.keys(given))
    if (!(name in schema))
      throw new OptionError(
        method,
        name,
        (given as Record<string, unknown>)[name],
        `one of the options ${Object.keys(schema).join(', ') || '(none)'}`,
      )
  const parsed: Record<string, unknown> = {}
  for (const [name, spec] of Object.entries(schema)) {
    const value = (given as Record<string, unknown>)[name] ?? spec.default
    if (!spec.valid(value)) throw new OptionError(method, name, value, spec.allowed)
    parsed[name] = value
  }
  return Object.freeze(parsed) as OptionsOf<S>
}
