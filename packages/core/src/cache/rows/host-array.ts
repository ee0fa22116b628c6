/** Tensors in host memory: arrays, or bytes that a lossless stage made of them. */
import type { HostTensor, Lossless, TensorForm } from '../../contract'

/** An array that was coded. */
export interface Coded extends TensorForm {
  readonly coded: Uint8Array
}
export type HostArray = HostTensor | Coded

export const isCoded = (t: HostArray): t is Coded => 'coded' in t

export const bytesIn = (t: HostArray): number => (isCoded(t) ? t.coded.byteLength : t.values.byteLength)

/** The shape and the kind of numbers of an array. */
export const formOf = ({ shape, values }: HostTensor): TensorForm => ({
  shape,
  dtype: values instanceof Int32Array ? 'int32' : 'float32',
})

/** Codes an array. Without a lossless stage it stays as it is. */
export const coded = (tensor: HostTensor, lossless: Lossless | null): HostArray =>
  lossless ? { ...formOf(tensor), coded: lossless.encode(tensor) } : tensor

/** Gives an array back. */
export function decoded(t: HostArray, lossless: Lossless | null): HostTensor {
  if (!isCoded(t)) return t
  if (!lossless) throw new Error('coded rows, and nothing that decodes them')
  const tensor = lossless.decode(t.coded, { shape: t.shape, dtype: t.dtype })
  const size = t.shape.reduce((a, b) => a * b, 1)
  const ints = tensor.values instanceof Int32Array
  if (tensor.values.length !== size || ints !== (t.dtype === 'int32'))
    throw new Error(`coded rows of shape [${t.shape.join(', ')}] that decode to ${tensor.values.length} numbers`)
  return tensor
}
