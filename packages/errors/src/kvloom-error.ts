/** The base of every error that kvloom throws on purpose, in whatever package. */

/** Shared by all copies of this package: two versions in one program know each other's errors. */
const MARKER: unique symbol = Symbol.for('kvloom.error') as never

/**
 * An error that says what was given, what is allowed and what to do. Callers branch on `code`, a stable word in capitals
 * (`OPTION`, `FILE_MISSING`); the wording of a message may change.
 */
export class KvloomError extends Error {
  readonly code: string
  /** Marks the error for `isInstance`. */
  readonly [MARKER] = true as const

  /** @param options `cause`: the error of a lower level, where there was one */
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.code = code
  }

  /**
   * Whether something caught is an error of kvloom. As `instanceof KvloomError`, and true as well where the error comes from another
   * copy of this package, which npm installs for two versions side by side.
   */
  static isInstance(caught: unknown): caught is KvloomError {
    return caught instanceof Error && Reflect.get(caught, MARKER) === true
  }
}
