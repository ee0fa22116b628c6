/** What a transform fitted on a prompt: tensors that pages and parts refer to, shared by forks and freed with the last of them. */
import * as tf from '@tensorflow/tfjs-core'
import type { Tensors } from '../../contract'
import { bytesOf } from '../../tensors'
import type { FittedRecord, Recorder } from '../file/format'
import { Owned } from '../owned'

export class Fitted extends Owned {
  readonly bytes: number
  /** Nothing was fitted for what was fitted. */
  readonly fitted = null

  constructor(readonly state: Tensors) {
    super()
    this.bytes = Object.values(state).reduce((sum, t) => sum + bytesOf(t), 0)
  }
  protected free(): void {
    tf.dispose(Object.values(this.state))
  }
  record(to: Recorder): FittedRecord {
    return { state: to.tensors(this.state) }
  }
}
