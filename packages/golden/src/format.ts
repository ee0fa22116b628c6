/** Golden results as lines of text. */
import type { TensorResult } from './compare'
import type { GoldenResult } from './run'

/** One line: status, case, the tensor that uses most of its tolerance with error and tolerance, and a remark. */
export function formatGolden({ folder, case: name, status, tensors, message }: GoldenResult): string {
  const worst = [...tensors].sort((a, b) => useOf(b) - useOf(a))[0]
  const error = worst ? `  ${worst.name}: error ${show(worst.error)}, tolerance ${show(worst.tolerance)}` : ''
  return `${status.padEnd(7)} ${folder}/${name}${error}${message ? `  (${message})` : ''}`
}

/** The last line: how many passed; failed ones include cases that nothing here runs. */
export function summarizeGolden(results: readonly Pick<GoldenResult, 'status'>[]): string {
  const passed = results.filter(({ status }) => status === 'passed').length
  return `${passed} passed, ${results.length - passed} failed`
}

/** Share of the tolerance that is used; failures first, among exact ones the larger error. */
function useOf({ error, tolerance, passed }: TensorResult): number {
  if (!passed) return Number.MAX_VALUE
  return tolerance === 0 ? 0 : error / tolerance
}

/** Two digits. */
const show = (x: number): string => String(Number(x.toPrecision(2)))
