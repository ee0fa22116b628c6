import { KvloomError } from '@kvloom/errors'

/** What every function of this package throws on purpose: which function, what was given, what is allowed, what to do. */
export class MathError extends KvloomError {
  constructor(
    readonly where: string,
    readonly given: string,
    readonly allowed: string,
    readonly cure: string,
  ) {
    super('MATH', `${where}: given ${given}; allowed: ${allowed}. ${cure}`)
  }
}

/** @throws MathError unless `value` is an integer in `[low, high]`. */
export function requireInteger(where: string, name: string, value: number, low: number, high = 2 ** 31 - 1): void {
  if (Number.isInteger(value) && value >= low && value <= high) return
  const allowed = high === 2 ** 31 - 1 ? `an integer of at least ${low}` : `an integer from ${low} to ${high}`
  throw new MathError(where, `${name} = ${value}`, allowed, `Pass another ${name}.`)
}

/** @throws MathError when one of `values` is NaN or infinite. */
export function requireFinite(where: string, name: string, values: ArrayLike<number>): void {
  for (let i = 0; i < values.length; i++) {
    if (Number.isFinite(values[i])) continue
    throw new MathError(
      where,
      `${name} with ${values[i]} at position ${i}`,
      'finite numbers',
      'Drop or repair that row before.',
    )
  }
}
