/** Owns the tables that stages hold. A table is uploaded once per array of values, counted, and freed with the last fork. */
import type * as tf from '@tensorflow/tfjs-core'
import type { HostTensor } from '../contract'
import { bytesOf, upload } from '../tensors'
import { Owned } from './owned'

export class TablePool extends Owned {
  private readonly tables = new Map<HostTensor['values'], tf.Tensor>()

  readonly hold = (table: HostTensor): tf.Tensor => {
    const known = this.tables.get(table.values)
    if (known) return known
    const tensor = upload(table)
    this.tables.set(table.values, tensor)
    return tensor
  }
  get bytes(): number {
    return [...this.tables.values()].reduce((n, t) => n + bytesOf(t), 0)
  }
  protected free(): void {
    for (const t of this.tables.values()) t.dispose()
    this.tables.clear()
  }
}
