import { KvloomError } from '@kvloom/core'

/** Golden data is missing, damaged or not in the schema. */
export class GoldenError extends KvloomError {
  constructor(message: string, options?: ErrorOptions) {
    super('GOLDEN', message, options)
  }
}
