/** Small helpers on tensors that several files of core share. */
import * as tf from '@tensorflow/tfjs-core'
import type { HostTensor, Tensors } from './contract'

/** Copies a host tensor to the current backend. The result is the caller's. */
export const upload = ({ shape, values }: HostTensor): tf.Tensor =>
  tf.tensor(values, [...shape], values instanceof Int32Array ? 'int32' : 'float32')

/** Copies a tensor with its storage. tf.clone would share the storage, and the ledger counts what is held. */
export const copyOf = <T extends tf.Tensor>(t: T): T =>
  tf.tidy(() => tf.reshape(tf.concat([tf.reshape(t, [-1]), tf.zeros([0], t.dtype)]), t.shape)) as T

/** How many bytes a tensor takes, as tf.memory() counts them. */
export const bytesOf = (t: tf.Tensor): number => t.size * tf.util.bytesPerElement(t.dtype)

/** Keeps the names and changes the values. */
export const mapRecord = <A, B>(
  record: Readonly<Record<string, A>>,
  change: (a: A) => B,
): Readonly<Record<string, B>> =>
  Object.fromEntries(Object.entries(record).map(([name, value]) => [name, change(value)]))

export const mapTensors = (tensors: Tensors, change: (t: tf.Tensor) => tf.Tensor): Tensors => mapRecord(tensors, change)

export const emptyLike = (t: tf.Tensor, rows: number): tf.Tensor =>
  tf.zeros([t.shape[0] ?? 0, rows, ...t.shape.slice(2)], t.dtype)

/** Flattens everything behind the rows of `[heads, rows, ...]`. The result shares the data. */
export const as3d = (t: tf.Tensor): tf.Tensor3D => tf.reshape(t, [t.shape[0] ?? 0, t.shape[1] ?? 0, -1])

/** Joins pieces `[heads, n, dim]` along the rows. A single piece is handed back as it is. */
export const concatRows = (pieces: readonly tf.Tensor3D[]): tf.Tensor3D => {
  const [only] = pieces
  return pieces.length === 1 && only ? only : tf.concat([...pieces], 1)
}

/** Merges the heads of `[heads, n, dim]` to `[n, heads * dim]`. */
export const mergeHeads = (x: tf.Tensor): tf.Tensor2D => {
  const [heads = 0, n = 0, dim = 0] = x.shape
  if (heads === 1) return tf.reshape(x, [n, dim])
  return tf.reshape(tf.transpose(x, [1, 0, 2]), [n, heads * dim])
}

/** Takes heads `from ... from + count` of a tensor `[heads, n, dim]`. The result is the caller's. */
export const headsOf = (t: tf.Tensor, { from, count }: { from: number; count: number }): tf.Tensor =>
  tf.slice(t as tf.Tensor3D, [from, 0, 0], [count, -1, -1])

/**
 * Joins the query heads that share a KV head.
 * @param x numbers of every query head `[queryHeads, n]`; queryHeads is a multiple of kvHeads
 * @param join what it makes of the heads along an axis: their mean by default
 * @returns `[kvHeads, n]`, the caller's
 */
export const perKvHead = (
  x: tf.Tensor,
  kvHeads: number,
  join: (heads: tf.Tensor, axis: number) => tf.Tensor = tf.mean,
): tf.Tensor => {
  const [queryHeads = 0, n = 0] = x.shape
  return tf.tidy(() => join(tf.reshape(x, [kvHeads, queryHeads / kvHeads, n]), 1))
}

/** Frees tensors, and passes over those that are absent. */
export const disposeAll = (tensors: readonly (tf.Tensor | null | undefined)[]): void =>
  tf.dispose(tensors.filter((t) => t != null))
