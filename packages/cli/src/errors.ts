/** What the command line itself refuses, and how an error becomes a line and an exit code. */
import { KvloomError } from '@kvloom/core'
import { CompositionError } from '@kvloom/methods'

export const EXIT = { ok: 0, failure: 1, usage: 2, interrupted: 130 } as const

/** A command that was not written as it must be. Exit code 2. */
export class UsageError extends KvloomError {
  constructor(message: string, options?: ErrorOptions) {
    super('USAGE', message, options)
  }
}

/** The work was stopped by Ctrl-C. Exit code 130. */
export class Interrupted extends KvloomError {
  constructor() {
    super('INTERRUPTED', 'interrupted.')
  }
}

/** 2 for what was typed wrongly, 130 for Ctrl-C, 1 for everything else. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError || error instanceof CompositionError) return EXIT.usage
  if (error instanceof Interrupted) return EXIT.interrupted
  if (error instanceof Error && error.name === 'AbortError') return EXIT.interrupted
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return code === 'CANCELLED' || code === 'INTERRUPTED' ? EXIT.interrupted : EXIT.failure
}

/** One line for people; with `verbose` the stack and its causes below it. */
export function describeError(error: unknown, verbose: boolean): string {
  if (!(error instanceof Error)) return String(error)
  if (!verbose) {
    // An error with a code was thrown on purpose and says all there is; anything else is a defect.
    const hint = 'code' in error ? '' : ' (this is unexpected; --verbose shows where)'
    return `${error.message.split('\n')[0] ?? error.name}${hint}`
  }
  const cause = error.cause === undefined ? '' : `\ncaused by: ${describeError(error.cause, true)}`
  return `${error.stack ?? error.message}${cause}`
}
