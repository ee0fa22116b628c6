/** Compares results with what is expected, and says where they are farthest apart. */
import { indexOf, type NdArray, sizeOf } from './array'
import type { Tolerance } from './schema'

/** One compared tensor: the element that uses most of its tolerance. */
export interface TensorResult {
  readonly name: string
  /** Largest error, in the unit of `tolerance`. */
  readonly error: number
  /** What is allowed there. */
  readonly tolerance: number
  /** Index of that element, or what else went wrong. */
  readonly where: string
  readonly passed: boolean
}

export interface CompareExtras {
  /** For `absTimesScale`, the scale of each element's group, in the shape of the expected tensor. */
  readonly scales?: NdArray
  /** For `except_`, the positions where anything is right, in the shape of the expected tensor. */
  readonly except?: NdArray
}

/** Compares element by element, under `tolerance` (default: exact). */
export function compareArrays(
  name: string,
  actual: NdArray,
  expected: NdArray,
  tolerance: Tolerance,
  { scales, except }: CompareExtras = {},
): TensorResult {
  if (actual.shape.join() !== expected.shape.join())
    return wrong(name, `shape [${actual.shape.join(', ')}], expected [${expected.shape.join(', ')}]`)
  if (tolerance.relFrobenius !== undefined) return compareNorms(name, actual, expected, tolerance.relFrobenius)
  if (tolerance.agreement !== undefined) return compareAgreement(name, actual, expected, tolerance.agreement)
  const { abs = 0, rel = 0, absTimesScale = 0 } = tolerance
  let worst = { error: 0, allowed: abs, at: 0, use: 0 }
  const size = sizeOf(expected.shape)
  for (let at = 0; at < size; at++) {
    if (except?.data[at]) continue
    const [a = Number.NaN, b = Number.NaN] = [actual.data[at], expected.data[at]]
    if (Object.is(a, b) || a === b) continue
    const error = Math.abs(a - b)
    const allowed = abs + rel * Math.abs(b) + absTimesScale * (scales?.data[at] ?? 0)
    // A NaN, or any error where none is allowed, counts as using more than the whole tolerance.
    const use = Number.isNaN(error) || allowed === 0 ? Number.POSITIVE_INFINITY : error / allowed
    if (use > worst.use || (use === worst.use && error > worst.error)) worst = { error, allowed, at, use }
  }
  return {
    name,
    error: worst.error,
    tolerance: worst.allowed,
    where: `[${indexOf(worst.at, expected.shape).join(', ')}]`,
    passed: worst.use <= 1,
  }
}

function compareNorms(name: string, actual: NdArray, expected: NdArray, allowed: number): TensorResult {
  let [difference, norm] = [0, 0]
  expected.data.forEach((b, at) => {
    difference += ((actual.data[at] ?? Number.NaN) - b) ** 2
    norm += b ** 2
  })
  const error = norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm)
  return { name, error, tolerance: allowed, where: 'relative Frobenius norm', passed: error <= allowed }
}

function compareAgreement(name: string, actual: NdArray, expected: NdArray, least: number): TensorResult {
  let different = 0
  expected.data.forEach((b, at) => {
    if (actual.data[at] !== b) different++
  })
  const error = expected.data.length === 0 ? 0 : different / expected.data.length
  return { name, error, tolerance: 1 - least, where: 'share of different elements', passed: error <= 1 - least }
}

/** A result that failed before anything could be compared. */
export const wrong = (name: string, where: string): TensorResult => ({
  name,
  error: Number.POSITIVE_INFINITY,
  tolerance: 0,
  where,
  passed: false,
})
