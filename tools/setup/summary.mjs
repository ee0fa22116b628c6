// The last lines of .ci/run: what failed, by name, then the sums of vitest's JSON report. A test file that could not be
// loaded and a failed phase before the tests count as one failure each.
import { readFileSync } from 'node:fs'
import { relative } from 'node:path'
import { checksResult, root, vitestResult } from './workspace.mjs'

/** Failures that are named at most: the end of a log is what people are shown. */
const NAMED = 20

const report = read(vitestResult)
const phases = read(checksResult)

let passed = 0
let failed = 0
let skipped = 0
if (report) {
  passed = report.numPassedTests
  failed = report.numFailedTests
  skipped = report.numPendingTests + report.numTodoTests
  const unloaded = report.testResults.filter(
    (file) => file.status === 'failed' && file.assertionResults.every((test) => test.status !== 'failed'),
  )
  failed += unloaded.length
  const named = [
    ...unloaded.map(({ name, message }) => [name, 'could not be loaded', message]),
    ...report.testResults.flatMap(({ name, assertionResults }) =>
      assertionResults
        .filter(({ status }) => status === 'failed')
        .map(({ fullName, failureMessages }) => [name, fullName, failureMessages[0]]),
    ),
  ]
  for (const [file, test, message] of named.slice(0, NAMED)) {
    process.stdout.write(`failed: ${relative(root, file)}: ${test}: ${`${message}`.split('\n', 1)[0].slice(0, 300)}\n`)
  }
  if (named.length > NAMED) process.stdout.write(`and ${named.length - NAMED} more failures\n`)
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
