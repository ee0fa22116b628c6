/** Writes golden results as lines of text. */
import type { TensorResult } from './compare'
import type { GoldenResult } from './run'

/** Writes one line: the status, the case, the tensor that uses most of its tolerance with its error and tolerance, and a remark. */
export function formatGolden({ folder, case: name, status, tensors, message }: GoldenResult): string {
  const worst = [...tensors].sort((a, b) => useOf(b) - useOf(a))[0]
  const error = worst ? `  ${worst.name}: error ${show(worst.error)}, tolerance ${show(worst.tolerance)}` : ''
  return `${status.padEnd(7)} ${folder}/${name}${error}${message ? `  (${message})` : ''}`
}

/** Writes the last line: how many passed. Cases that no adapter runs count as failed. */
export function summarizeGolden(results: readonly Pick<GoldenResult, 'status'>[]): string {
  const passed = results.filter(({ status }) => status === 'passed').length
  return `${passed} passed, ${results.length - passed} failed`
}

/** The share of its tolerance that a result uses. Failures come before all others, and of exact ones the larger error counts more. */
function useOf({ error, tolerance, passed }: TensorResult): number {
  if (!passed) return Number.MAX_VALUE
  return tolerance === 0 ? 0 : error / tolerance
}

/** Writes a number with two digits. */
const show = (x: number): string => String(Number(x.toPrecision(2)))
