// Typed errors of the kernels: what was given, what is allowed, what to do. Nothing here falls back silently.

import { KvloomError } from '@kvloom/errors'

/** The three pieces every input error states. */
export interface InputErrorParts {
  /** Kernel or function that refuses. */
  readonly where: string
  /** What was given, in words with numbers. */
  readonly given: string
  /** What is allowed. */
  readonly allowed: string
  /** What to do about it. */
  readonly cure: string
}

/** A kernel was called with tensors, sizes or options it does not accept. */
export class KernelInputError extends KvloomError {
  override readonly name = 'KernelInputError'
  readonly where: string
  readonly given: string
  readonly allowed: string
  readonly cure: string

  constructor(parts: InputErrorParts) {
    super('KERNEL_INPUT', `${parts.where}: given ${parts.given}; allowed: ${parts.allowed}. ${parts.cure}`)
    this.where = parts.where
    this.given = parts.given
    this.allowed = parts.allowed
    this.cure = parts.cure
  }
}

/** The tfjs backend is missing, not registered, of an untested build, or out of memory. */
export class KernelBackendError extends KvloomError {
  override readonly name = 'KernelBackendError'
  constructor(message: string, options?: ErrorOptions) {
    super('KERNEL_BACKEND', message, options)
  }
}
