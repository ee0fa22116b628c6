import { KvloomError } from '@kvloom/core'

/** A composition that cannot be read or built. `position` counts characters from 1. */
export class CompositionError extends KvloomError {
  constructor(
    readonly text: string,
    readonly position: number,
    reason: string,
    options?: ErrorOptions,
  ) {
    super('COMPOSITION', `${reason} (character ${position} of "${text}")`, options)
  }
}
