// Typed errors of the engine. Every one says what was given, what is allowed and what to do; callers branch on `code`.

import { KvloomError } from '@kvloom/errors'

/** What every engine error states. */
export interface EngineErrorParts {
  /** What was given, in words with numbers and names. */
  readonly given: string
  /** What is allowed or was expected. */
  readonly allowed: string
  /** What to do about it. */
  readonly cure: string
  /** The lower-level error, if there was one. */
  readonly cause?: unknown
}

/** Base of all errors of this package. */
export class EngineError<Code extends string = string> extends KvloomError {
  override readonly name: string = 'EngineError'
  /** Stable word to branch on. */
  declare readonly code: Code
  readonly given: string
  readonly allowed: string
  readonly cure: string

  constructor(code: Code, parts: EngineErrorParts) {
    super(
      code,
      `${parts.given}; allowed: ${parts.allowed}. ${parts.cure}`,
      parts.cause === undefined ? undefined : { cause: parts.cause },
    )
    this.given = parts.given
    this.allowed = parts.allowed
    this.cure = parts.cure
  }
}

/** What can be wrong with a model or tensor file. */
export type ModelFileErrorCode =
  | 'FILE_MISSING'
  | 'FILE_EXISTS'
  | 'CANNOT_WRITE'
  | 'FILE_TRUNCATED'
  | 'FILE_CHANGED'
  | 'WRONG_MAGIC'
  | 'UNSUPPORTED_VERSION'
  | 'ABSURD_COUNT'
  | 'BAD_HEADER'
  | 'BAD_METADATA'
  | 'BAD_OFFSET'
  | 'BAD_SHAPE'
  | 'DUPLICATE_TENSOR'
  | 'UNKNOWN_TENSOR_TYPE'
  | 'UNSUPPORTED_TENSOR_TYPE'
  | 'TENSOR_MISSING'
  | 'TENSOR_UNEXPECTED'

/** A GGUF, safetensors or config file is damaged, incomplete, or holds something this engine does not read. */
export class ModelFileError extends EngineError<ModelFileErrorCode> {
  override readonly name = 'ModelFileError'
}

/** Throws a `ModelFileError`; for readers, where most cures are the same. */
export function refuseFile(
  code: ModelFileErrorCode,
  given: string,
  allowed: string,
  cure = 'The file is damaged; fetch it again.',
): never {
  throw new ModelFileError(code, { given, allowed, cure })
}

/** The model is of a family this engine has no forward pass for. */
export class UnsupportedArchitectureError extends EngineError<'UNSUPPORTED_ARCHITECTURE'> {
  override readonly name = 'UnsupportedArchitectureError'
  constructor(
    readonly architecture: string,
    readonly supported: readonly string[],
  ) {
    super('UNSUPPORTED_ARCHITECTURE', {
      given: `a model of architecture "${architecture}"`,
      allowed: supported.join(', '),
      cure: 'Use a model of one of these families.',
    })
  }
}

/** What can be wrong with a tokenizer or its input. */
export type TokenizerErrorCode =
  | 'UNSUPPORTED_TOKENIZER'
  | 'BAD_TOKENIZER'
  | 'UNKNOWN_ID'
  | 'BAD_INPUT'
  | 'NO_CHAT_TEMPLATE'
  | 'BAD_CHAT_TEMPLATE'

/** The tokenizer description is not understood, or it was asked for something it cannot do. */
export class TokenizerError extends EngineError<TokenizerErrorCode> {
  override readonly name = 'TokenizerError'
}

/** What can be wrong with an artifact file. */
export type ArtifactFileErrorCode = 'CANNOT_READ' | 'CANNOT_WRITE' | 'DAMAGED' | 'OTHER_VERSION' | 'BAD_ARTIFACT'

/** An artifact file that is missing, damaged, of another version, or cannot be written. */
export class ArtifactFileError extends EngineError<ArtifactFileErrorCode> {
  override readonly name = 'ArtifactFileError'
}

/** Why a model name could not be turned into a file. */
export type ResolveErrorCode =
  | 'NOT_FOUND'
  | 'UNREACHABLE'
  | 'UNFINISHED'
  | 'HUB_REFUSED'
  | 'HASH_MISMATCH'
  | 'SIZE_MISMATCH'
  | 'NO_SPACE'
  | 'NO_PERMISSION'
  | 'PIP_FAILED'
  | 'AMBIGUOUS'
  | 'CANCELLED'

/** A model could not be found, downloaded or stored. */
export class ResolveError extends EngineError<ResolveErrorCode> {
  override readonly name = 'ResolveError'
  /** Each place that was looked in, with what came of it. */
  readonly tried: readonly string[]

  constructor(code: ResolveErrorCode, parts: EngineErrorParts & { readonly tried?: readonly string[] }) {
    super(code, parts)
    this.tried = parts.tried ?? []
  }
}
