/** Typed errors of the core. Messages say what was given, what is allowed and what to do. */
import { KvloomError } from '@kvloom/errors'
import { type Cure, type CureForm, type Cures, cureSentence, curesOf } from './cures'

export { KvloomError } from '@kvloom/errors'

/** An option is out of its range, or of the wrong type. */
export class OptionError extends KvloomError {
  constructor(
    readonly method: string,
    readonly option: string,
    readonly given: unknown,
    readonly allowed: string,
    cure = '',
  ) {
    super('OPTION', `${method}: option ${option} is ${show(given)}; allowed: ${allowed}.${cure ? ` ${cure}` : ''}`)
  }
}

/** What is refused with ways out: `cures` has them as data, `cure` as a sentence for programs, `messageIn` writes all of it in either form. */
export abstract class RefusedError extends KvloomError {
  /** The ways out; empty where `cure` is all there is. */
  readonly cures: readonly Cure[]
  readonly cure: string
  private readonly given: Cures

  protected constructor(
    code: string,
    private readonly said: string,
    cures: Cures,
  ) {
    const cure = cureSentence(cures, 'typescript')
    super(code, `${said} ${cure}`)
    this.cures = curesOf(cures)
    this.cure = cure
    this.given = cures
  }

  /** The message with its cure as TypeScript or in the grammar of compositions. */
  messageIn(form: CureForm): string {
    return `${this.said} ${cureSentence(this.given, form)}`
  }
}

/** Two stages cannot work together, or one lacks another. The message names both and the cure. */
export class IncompatibleStages extends RefusedError {
  constructor(
    /** The earlier stage, or null when `later` lacks a stage that is not there. */
    readonly earlier: string | null,
    readonly later: string,
    readonly reason: string,
    cures: Cures,
  ) {
    super(
      'INCOMPATIBLE_STAGES',
      `${earlier === null ? `${later} cannot work alone` : `${earlier} and ${later} cannot be composed`}: ${reason}`,
      cures,
    )
  }
}

/** A method does not fit the model's shape: its heads, dims or layers. */
export class ModelMismatch extends RefusedError {
  constructor(
    readonly method: string,
    reason: string,
    cures: Cures,
  ) {
    super('MODEL_MISMATCH', `${method} does not fit this model: ${reason}`, cures)
  }
}

/** The stages cannot work with a window that was asked for. */
export class WindowError extends RefusedError {
  constructor(reason: string, cures: Cures) {
    super('WINDOW', reason, cures)
  }
}

/** The largest magnitude that numbers may have, and why. */
export interface Limit {
  readonly most: number
  /** What holds no more, as in "the most that ... holds". */
  readonly of: string
  /** What holds larger numbers, as a sentence; empty where nothing does. */
  readonly cure: string
}

/** A cache was handed NaN, infinity, or a number that its store or its metadata cannot hold. It has stored nothing of that layer's step. */
export class NonFiniteError extends KvloomError {
  constructor(
    readonly layer: number,
    readonly part: 'keys' | 'values' | 'queries',
    { most, of, cure }: Limit,
    /** Whether nothing of the step was stored in any layer, so that the cache can take another step. */
    readonly goesOn: boolean,
  ) {
    super(
      'NON_FINITE',
      [
        `Layer ${layer} was handed ${part} with NaN, infinity or numbers beyond ${shortly(most)}, the most that ${of} holds; nothing of this step was stored ${goesOn ? 'in any layer' : 'for it'}.`,
        `Check the model weights and the input.`,
        cure,
        goesOn ? 'The cache goes on as if the step had not begun.' : 'Go on from a fork() taken before this step.',
      ]
        .filter((sentence) => sentence !== '')
        .join(' '),
    )
  }
}

/** A large number by its exponent and few digits. */
const shortly = (x: number): string => (x < 1e6 ? String(x) : Number(x.toPrecision(4)).toExponential())

/** A step would need more positions than the model's context has. */
export class ContextOverflow extends KvloomError {
  constructor(
    readonly asked: number,
    readonly contextLength: number,
    /** What to do; a cache knows better where its stages number rows anew (`contextCure`). */
    readonly cure = 'Shorten the prompt, or use a method that re-assigns positions (streaming-llm with positions "slot").',
  ) {
    super('CONTEXT_OVERFLOW', `${asked} positions were asked for, the model's context is ${contextLength}. ${cure}`)
  }
}

/** A cache was called in an order that its life cycle does not allow. */
export class CacheStateError extends KvloomError {
  constructor(message: string) {
    super('CACHE_STATE', message)
  }
}

/** A stage asks for something this version's cache cannot run. */
export class UnsupportedStage extends KvloomError {
  constructor(
    readonly stage: string,
    reason: string,
  ) {
    super('UNSUPPORTED_STAGE', `Stage ${stage} cannot run in this cache: ${reason}`)
  }
}

/** A compressor with fitted stages was opened without artifacts that fit. */
export class NotCalibrated extends KvloomError {
  constructor(
    readonly stage: string,
    reason: string,
  ) {
    super(
      'NOT_CALIBRATED',
      `Stage ${stage} needs calibration: ${reason} Run calibrate() on this model and these options first.`,
    )
  }
}

/** A saved cache is damaged, of another version, or of another compressor. */
export class SerializedCacheError extends KvloomError {
  constructor(reason: string) {
    super('SERIALIZED_CACHE', `This serialised cache cannot be restored: ${reason}`)
  }
}

/** A value as JSON writes it, but NaN and infinity by their names, for which JSON writes null. */
function show(value: unknown, depth = 0): string {
  if (typeof value === 'number' || typeof value === 'bigint') return String(value)
  if (typeof value === 'string') return depth === 0 ? `"${value}"` : JSON.stringify(value)
  if (typeof value !== 'object' || value === null) return String(value)
  if (depth > MOST_NESTED) return '...'
  if (Array.isArray(value)) return `[${value.map((each) => show(each, depth + 1)).join(',')}]`
  const entries = Object.entries(value).filter(([, each]) => each !== undefined && typeof each !== 'function')
  return `{${entries.map(([name, each]) => `${JSON.stringify(name)}:${show(each, depth + 1)}`).join(',')}}`
}
/** Lists and objects inside each other that a message writes out. */
const MOST_NESTED = 4

/** An artifact was fitted for something else. */
export class ArtifactMismatch extends KvloomError {
  constructor(
    readonly stage: string,
    why: string,
    readonly cure = 'Calibrate again for what is asked for (calibrate(), or kvloom calibrate), or ask for what it was fitted for.',
  ) {
    super('ARTIFACT_MISMATCH', `The artifact of ${stage} does not fit: ${why} ${cure}`)
  }
}

/** Calibration cannot go on: there are too few rows, values are not finite, or the engine lacks what a fit asks for. */
export class CalibrationError extends KvloomError {
  constructor(
    readonly stage: string,
    why: string,
  ) {
    super('CALIBRATION', `${stage} cannot be fitted: ${why}`)
  }
}
