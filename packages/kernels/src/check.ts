// Checks shared by the public functions of the kernels. They look at shapes and dtypes only, never at values: a check of values would wait for the device.
import type { DataType, Tensor } from '@tensorflow/tfjs-core'
import { KernelInputError } from './errors'

/** Sizes expected of a tensor; a name stands for "any size". Example: `['tokens', 64]`. */
export type ExpectedShape = readonly (number | string)[]

/**
 * Throws `KernelInputError` unless `tensor` has this dtype and shape.
 * @param where kernel name used in the message
 * @param label name of the argument used in the message
 */
export function checkTensor(where: string, label: string, tensor: Tensor, dtype: DataType, shape: ExpectedShape): void {
  const shapeFits =
    tensor.shape.length === shape.length &&
    shape.every((size, axis) => typeof size === 'string' || size === tensor.shape[axis])
  if (shapeFits && tensor.dtype === dtype) return
  throw new KernelInputError({
    where,
    given: `${label} of ${tensor.dtype} [${tensor.shape.join(', ')}]`,
    allowed: `${dtype} [${shape.join(', ')}]`,
    cure: tensor.dtype === dtype ? `Reshape or slice ${label}.` : `Cast ${label} to ${dtype}.`,
  })
}

/** Throws `KernelInputError` unless `value` is an integer in `[minimum, maximum]`. */
export function checkInteger(
  where: string,
  label: string,
  value: number,
  minimum: number,
  maximum = Number.MAX_SAFE_INTEGER,
): void {
  if (Number.isInteger(value) && value >= minimum && value <= maximum) return
  const range =
    maximum === Number.MAX_SAFE_INTEGER
      ? `an integer of at least ${minimum}`
      : `an integer from ${minimum} to ${maximum}`
  throw new KernelInputError({ where, given: `${label} = ${value}`, allowed: range, cure: `Change ${label}.` })
}
