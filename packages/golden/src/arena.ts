/** Owns tensors across awaits, where tf.tidy cannot. */
import { dispose, type Tensor } from '@tensorflow/tfjs-core'

export class Arena {
  private readonly owned: Tensor[] = []

  /** Takes a tensor over and hands it back. */
  own<T extends Tensor>(tensor: T): T {
    this.owned.push(tensor)
    return tensor
  }

  dispose(): void {
    dispose(this.owned.splice(0))
  }
}

/** Runs `work` with an arena that is disposed at the end, also after an error. */
export async function withArena<T>(work: (arena: Arena) => Promise<T>): Promise<T> {
  const arena = new Arena()
  try {
    return await work(arena)
  } finally {
    arena.dispose()
  }
}
