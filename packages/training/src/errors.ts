/** Typed errors of training. Messages say what was given, what is allowed and what to do. */
import { KvloomError } from '@kvloom/errors'

/** What can be wrong. */
export type TrainingErrorCode =
  | 'NOTHING_TO_TRAIN'
  | 'OTHER_STAGES'
  | 'CHECKPOINT_EXISTS'
  | 'CHECKPOINT_MISSING'
  | 'CHECKPOINT_DAMAGED'
  | 'CHECKPOINT_MISMATCH'
  | 'CANNOT_WRITE'
  | 'NOT_FINITE'
  | 'INTERRUPTED'

/** A model cannot be trained, or training cannot begin, go on or be kept. */
export class TrainingError extends KvloomError {
  declare readonly code: TrainingErrorCode

  constructor(
    code: TrainingErrorCode,
    readonly given: string,
    readonly allowed: string,
    readonly cure: string,
    options?: ErrorOptions,
  ) {
    super(code, `${given}; allowed: ${allowed}. ${cure}`, options)
  }
}
