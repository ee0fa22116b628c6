/** Checks that the calls of a cache come in their order: begin, every layer once, commit; and what may come between two steps. */
import { CacheStateError } from '../errors'

/** As much of a step as the order of calls depends on. */
interface OpenTurn {
  /** The layers that have attended. */
  readonly done: ReadonlySet<number>
}

/** @throws CacheStateError inside a step, and for more tokens than the compressor takes at once */
export function checkBegin(step: OpenTurn | null, tokens: number, chunkLimit: number): void {
  if (step) throw new CacheStateError('begin() was called before commit() ended the last step. Call commit() first.')
  if (tokens > chunkLimit)
    throw new CacheStateError(
      `begin() was given ${tokens} tokens, this compressor takes at most ${chunkLimit} at once (chunkLimit). Use smaller chunks: canTake() says how many fit.`,
    )
}

/** @throws CacheStateError outside a step, for a layer that has attended, and for one whose source has not. @returns the step */
export function checkTurn<S extends OpenTurn>(step: S | null, layer: number, source: number): S {
  if (!step) throw new CacheStateError(`attend(${layer}) was called outside a step. Call begin() first.`)
  if (step.done.has(layer)) throw new CacheStateError(`attend(${layer}) was called twice in one step.`)
  if (source !== layer && !step.done.has(source))
    throw new CacheStateError(`attend(${layer}) reads layer ${source}, which has not attended in this step.`)
  return step
}

/** @throws CacheStateError outside a step, and before every layer has attended. @returns the step */
export function checkCommit<S extends OpenTurn>(step: S | null, layers: number): S {
  if (!step) throw new CacheStateError('commit() was called outside a step. Call begin() first.')
  if (step.done.size !== layers)
    throw new CacheStateError(`commit() was called after ${step.done.size} of ${layers} layers attended.`)
  return step
}

/** @throws CacheStateError inside a step */
export function checkBetweenSteps(call: string, step: OpenTurn | null): void {
  if (step) throw new CacheStateError(`${call} was called inside a step. Call commit() first.`)
}

/** @throws CacheStateError for more tokens than have come since something else than appending happened to rows */
export function checkRollback(tokens: number, seen: number, settled: number, name: string): void {
  const most = seen - settled
  if (Number.isInteger(tokens) && tokens >= 0 && tokens <= most) return
  throw new CacheStateError(
    `rollback() was asked to forget ${tokens} tokens, and ${most} of ${seen} can be: before that ${name} ` +
      'sealed, dropped or looked at rows. Take a fork() before a step that may have to be undone, and go on from it.',
  )
}
