/** Typed errors of the evaluation. Messages say what was given, what is allowed and what to do. */
import { KvloomError } from '@kvloom/core'

/** Settings of a run that cannot work together or with this model and text. */
export class EvalOptionError extends KvloomError {
  constructor(
    readonly option: string,
    readonly given: unknown,
    readonly allowed: string,
    readonly cure: string,
  ) {
    super('EVAL_OPTION', `${option} is ${String(given)}; allowed: ${allowed}. ${cure}`)
  }
}

/** Logits with NaN or infinity: the run of this composition cannot be scored. */
export class NonFiniteLogitsError extends KvloomError {
  constructor(readonly position: number) {
    super(
      'NON_FINITE_LOGITS',
      `The logits at position ${position} hold NaN or infinity, so nothing can be scored. ` +
        'Use milder options (more bits, a larger window), or check the model file.',
    )
  }
}

/** A report that cannot be read or written. */
export class ReportError extends KvloomError {
  constructor(reason: string, cure: string, options?: ErrorOptions) {
    super('REPORT', `${reason} ${cure}`, options)
  }
}

/** Thrown inside a run when its signal is aborted; `compareRows` turns it into a partial report. */
export class InterruptedError extends KvloomError {
  constructor() {
    super(
      'INTERRUPTED',
      'The run was interrupted; what was finished is in the report. Start it again to measure the rest.',
    )
  }
}
