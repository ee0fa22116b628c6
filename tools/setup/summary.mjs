// The last line of .ci/run: sums of vitest's JSON report. A test file that could not be loaded and a failed phase before
// the tests count as one failure each.
import { readFileSync } from 'node:fs'
import { checksResult, vitestResult } from './workspace.mjs'

const report = read(vitestResult)
const phases = read(checksResult)

let passed = 0
let failed = 0
let skipped = 0
if (report) {
  passed = report.numPassedTests
  failed = report.numFailedTests
  skipped = report.numPendingTests + report.numTodoTests
  failed += report.testResults.filter(
    (file) => file.status === 'failed' && file.assertionResults.every((test) => test.status !== 'failed'),
  ).length
} else {
  process.stdout.write('the tests did not run\n')
  failed += 1
}
for (const { name, exitCode } of phases ?? []) {
  if (exitCode === 0 || name === 'tests') continue
  process.stdout.write(`failed before the tests: ${name}\n`)
  failed += 1
}
if (report && failed === 0 && phases?.some(({ exitCode }) => exitCode !== 0)) {
  process.stdout.write('vitest reported an error outside the tests\n')
  failed += 1
}

process.stdout.write(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`)
process.exitCode = failed === 0 && passed > 0 ? 0 : 1

function read(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    return undefined
  }
}
