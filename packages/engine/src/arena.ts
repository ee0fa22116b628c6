// Ownership of tensors across awaits, where tf.tidy cannot reach: whatever is not freed by the way is freed at the end, also after an error.
import { dispose, type Tensor } from '@tensorflow/tfjs-core'

/** Holds tensors until they are freed one by one or all together. */
export class Arena {
  private readonly held = new Set<Tensor>()

  /** Takes ownership of a tensor, or of every tensor of a record, and returns it. */
  own<T extends Tensor | Readonly<Record<string, Tensor>>>(owned: T): T {
    for (const each of tensorsOf(owned)) this.held.add(each)
    return owned
  }

  /** Frees tensors that were owned. */
  free(...freed: readonly (Tensor | Readonly<Record<string, Tensor>>)[]): void {
    for (const each of freed.flatMap(tensorsOf)) {
      this.held.delete(each)
      each.dispose()
    }
  }

  /** Hands a tensor out: it is the caller's from now on. */
  release(tensor: Tensor): Tensor {
    this.held.delete(tensor)
    return tensor
  }

  /** Frees everything still held. */
  dispose(): void {
    dispose([...this.held])
    this.held.clear()
  }
}

function tensorsOf(owned: Tensor | Readonly<Record<string, Tensor>>): Tensor[] {
  return isTensor(owned) ? [owned] : Object.values(owned)
}

function isTensor(value: Tensor | Readonly<Record<string, Tensor>>): value is Tensor {
  return typeof (value as Tensor).dataSync === 'function'
}
