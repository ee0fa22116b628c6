/** Says what may be called now. A cache may be disposed, broken in the middle of a step, or busy with a call. */
import type * as tf from '@tensorflow/tfjs-core'
import { CacheStateError } from '../errors'

export class Guard {
  /** Why no further step is possible, if so. What is stored stays readable. */
  private broken: string | null = null
  private disposed = false
  /** The call that has not ended yet, if there is one. Nothing else may touch the cache meanwhile. */
  private busy: string | null = null
  /** Whether the last step waits until the model has read its context again. */
  waits = false

  /** Disposes of the cache: `free` gives everything back, as soon as no call is running. */
  constructor(private readonly free: () => void) {}

  /** @throws CacheStateError unless a call may begin; `ofReplay`: one that a waiting step is there for */
  check(ofReplay = false): void {
    this.checkOpen()
    if (this.busy)
      throw new CacheStateError(
        `This cache is in the middle of ${this.busy}. Wait for its promise before the next call.`,
      )
    if (this.waits && !ofReplay)
      throw new CacheStateError(
        'This cache waits until the model has read its context again. Run the passes of `replay` and call its finish(); forward() of @kvloom/engine does it.',
      )
    if (this.broken)
      throw new CacheStateError(
        `This cache stopped in the middle of a step (${this.broken}). What is stored can be read by materialize(); go on from a fork() taken before.`,
      )
  }
  /** @throws CacheStateError once disposed */
  checkOpen(): void {
    if (this.disposed) throw new CacheStateError('This cache was disposed. Open a new one.')
  }

  /** Runs a call that waits for the device, and lets no other call run. A `dispose()` that comes meanwhile is done when it ends. */
  async alone<T extends tf.Tensor | undefined>(name: string, run: () => Promise<T>): Promise<T> {
    this.busy = name
    try {
      const output = await run()
      if (!this.disposed) return output
      output?.dispose()
      throw new CacheStateError(`This cache was disposed while ${name} ran. Open a new one.`)
    } finally {
      this.busy = null
      if (this.disposed) this.free()
    }
  }

  /** Notes that the step can neither go on nor be taken back. */
  break(why: string): void {
    this.broken = why
  }
  /** Runs what stores rows; `what` names the layer or the call. If it fails, some rows may be stored, so the step can neither go on nor be taken back. */
  async breaking<T>(what: string, run: () => Promise<T>): Promise<T> {
    try {
      return await run()
    } catch (error) {
      this.break(`${what} failed: ${error instanceof Error ? error.message : String(error)}`)
      throw error
    }
  }

  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    if (!this.busy) this.free()
  }
}
