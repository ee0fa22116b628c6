// Typed errors of the engine. Every one says what was given, what is allowed and what to do; callers branch on `code`.

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
export class EngineError<Code extends string = string> extends Error {
  override readonly name: string = 'EngineError'
  readonly given: string
  readonly allowed: string
  readonly cure: string

  constructor(
    /** Stable word to branch on. */
    readonly code: Code,
    parts: EngineErrorParts,
  ) {
    super(
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
  | 'file-missing'
  | 'file-exists'
  | 'cannot-write'
  | 'file-truncated'
  | 'file-changed'
  | 'wrong-magic'
  | 'unsupported-version'
  | 'absurd-count'
  | 'bad-header'
  | 'bad-metadata'
  | 'bad-offset'
  | 'bad-shape'
  | 'duplicate-tensor'
  | 'unknown-tensor-type'
  | 'unsupported-tensor-type'
  | 'tensor-missing'
  | 'tensor-unexpected'

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
export class UnsupportedArchitectureError extends EngineError<'unsupported-architecture'> {
  override readonly name = 'UnsupportedArchitectureError'
  constructor(
    readonly architecture: string,
    readonly supported: readonly string[],
  ) {
    super('unsupported-architecture', {
      given: `a model of architecture "${architecture}"`,
      allowed: supported.join(', '),
      cure: 'Use a model of one of these families.',
    })
  }
}

/** What can be wrong with a tokenizer or its input. */
export type TokenizerErrorCode =
  | 'unsupported-tokenizer'
  | 'bad-tokenizer'
  | 'unknown-id'
  | 'bad-input'
  | 'no-chat-template'
  | 'bad-chat-template'

/** The tokenizer description is not understood, or it was asked for something it cannot do. */
export class TokenizerError extends EngineError<TokenizerErrorCode> {
  override readonly name = 'TokenizerError'
}

/** What can be wrong with an artifact file. */
export type ArtifactFileErrorCode = 'cannot-read' | 'cannot-write' | 'damaged' | 'other-version' | 'bad-artifact'

/** An artifact file that is missing, damaged, of another version, or cannot be written. */
export class ArtifactFileError extends EngineError<ArtifactFileErrorCode> {
  override readonly name = 'ArtifactFileError'
}

/** Why a model name could not be turned into a file. */
export type ResolveErrorCode =
  | 'not-found'
  | 'unreachable'
  | 'interrupted'
  | 'hub-refused'
  | 'hash-mismatch'
  | 'size-mismatch'
  | 'no-space'
  | 'no-permission'
  | 'pip-failed'
  | 'ambiguous'
  | 'cancelled'

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
