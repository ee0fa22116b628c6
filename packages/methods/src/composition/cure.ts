/** Refusals whose cures are written in the grammar of compositions. */
import { RefusedError } from '@kvloom/core'

/** The message of an error with its cure in the grammar of compositions; other messages stay as they are. */
export const messageInGrammar = (error: Error): string =>
  error instanceof RefusedError ? error.messageIn('grammar') : error.message

/** The same error with that message, for who wrote a text. */
export function inGrammar<E>(error: E): E {
  if (!(error instanceof RefusedError)) return error
  const { message } = error
  error.message = messageInGrammar(error)
  if (error.stack !== undefined) error.stack = error.stack.replace(message, () => error.message)
  return error
}
