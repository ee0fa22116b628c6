/** What a transform fitted on a prompt: tensors that pages and parts refer to, shared by forks and freed with the last of them. */
import * as tf from '@tensorflow/tfjs-core'
import type { Tensors } from '../../contract'
import { bytesOf } from '../../tensors'
import type { FittedRecord, Recorder } from '../file/format'

export class Fitted {
  private owners = 1
  readonly bytes: number
  /** Nothing was fitted for what was fitted. */
  readonly fitted = null

  constructor(readonly state: Tensors) {
    this.bytes = Object.values(state).reduce((sum, t) => sum + bytesOf(t), 0)
  }
  get shared(): boolean {
    return this.owners > 1
  }
  retain(): this {
    this.owners++
    return this
  }
  release(): void {
    if (--this.owners === 0) tf.dispose(Object.values(this.state))
  }
  record(to: Recorder): FittedRecord {
    return { state: to.tensors(this.state) }
  }
}
