/** By how much numbers may grow when rows are multiplied with a table. */
import type { HostTensor } from './contract'

/** The largest sum of magnitudes over the last dimension of a table: a product with it exceeds the largest number of a row by so much at most. */
export function gainOf({ shape, values }: HostTensor): number {
  const width = shape.at(-1) ?? 0
  let largest = 0
  for (let from = 0; from < values.length; from += width) {
    let sum = 0
    for (let i = from; i < from + width; i++) sum += Math.abs(values[i] ?? 0)
    largest = Math.max(largest, sum)
  }
  return largest
}
