/** What may be called now: a cache may be disposed, stopped in the middle of a step, or in the middle of a call. */
import type * as tf from '@tensorflow/tfjs-core'
import { CacheStateError } from '../errors'

export class Guard {
  /** Why no further step is possible; what is stored stays readable. */
  private broken: string | null = null
  private disposed = false
  /** What a call that has not ended yet is doing; nothing else may touch the cache meanwhile. */
  private busy: string | null = null

  /** `free` gives everything back, once no call is running. */
  constructor(private readonly free: () => void) {}

  /** @throws CacheStateError unless a call may begin */
  check(): void {
    this.checkOpen()
    if (this.busy)
      throw new CacheStateError(
        `This cache is in the middle of ${this.busy}. Wait for its promise before the next call.`,
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

  /** Runs a call that waits for the device, alone; a `dispose()` meanwhile is done at its end. */
  async alone(name: string, run: () => Promise<tf.Tensor>): Promise<tf.Tensor> {
    this.busy = name
    try {
      const output = await run()
      if (!this.disposed) return output
      output.dispose()
      throw new CacheStateError(`This cache was disposed while ${name} ran. Open a new one.`)
    } finally {
      this.busy = null
      if (this.disposed) this.free()
    }
  }

  /** The step cannot be taken back any more, and cannot go on. */
  break(why: string): void {
    this.broken = why
  }
  /** The same where a layer fails after some of its rows may have been stored. */
  async breaking<T>(layer: number, run: () => Promise<T>): Promise<T> {
    try {
      return await run()
    } catch (error) {
      this.break(`layer ${layer} failed: ${error instanceof Error ? error.message : String(error)}`)
      throw error
    }
  }

  dispose(): void {
    if (this.disposed) return
    this.disposed = true
    if (!this.busy) this.free()
  }
}
