// Everything `npm test` looks at, in order. All phases run, also after one failed; the exit code is honest.
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { runNode, SetupError } from './child.mjs'
import { prepare } from './prepare.mjs'
import { checksResult, root, toolScript, vitestResult } from './workspace.mjs'

const INTERRUPTED = 130

const phases = (vitestArgs) => [
  [
    'types',
    () =>
      runNode(toolScript('typescript', 'tsc'), [
        '-p',
        'tsconfig.json',
        '--noEmit',
        '--incremental',
        '--tsBuildInfoFile',
        'node_modules/.kvloom/types.tsbuildinfo',
      ]),
  ],
  ['lint and format', () => runNode(toolScript('@biomejs/biome', 'biome'), ['check', '--error-on-warnings'])],
  ['directions of dependencies', () => runNode(join(root, 'tools', 'boundaries', 'check.mjs'), [])],
  ['unused files, exports, dependencies', () => runNode(toolScript('knip', 'knip'), ['--no-progress'])],
  ['lock file for every platform', () => runNode(join(root, 'tools', 'platforms', 'check.mjs'), [])],
  ['lists of methods', () => runNode(join(root, 'tools', 'method-lists', 'run.mjs'), ['--check'])],
  ['tables in the documentation', () => runNode(join(root, 'tools', 'doc-tables', 'run.mjs'), ['--check'])],
  ['declarations', declarations],
  ['packages as published', () => runNode(join(root, 'tools', 'check-packages', 'run.mjs'), [])],
  ['a package from outside', () => unlessSome(vitestArgs, 'check:third-party', 'third-party')],
  ['commands of the documentation', () => unlessSome(vitestArgs, 'check:commands', 'doc-examples')],
  [
    'tests',
    () =>
      runNode(toolScript('vitest', 'vitest'), [
        'run',
        '--reporter=default',
        '--reporter=json',
        `--outputFile.json=${vitestResult}`,
        ...vitestArgs,
      ]),
  ],
]

/** A check that takes minutes, so not when somebody runs some of the tests. */
function unlessSome(vitestArgs, script, folder) {
  if (vitestArgs.length === 0) return runNode(join(root, 'tools', folder, 'run.mjs'), [])
  process.stdout.write(`left out, because only some tests are run; \`npm run ${script}\` runs it\n`)
  return 0
}

async function declarations() {
  try {
    await prepare({ types: true })
    return 0
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    process.stdout.write(`${error.message}\n`)
    return 1
  }
}

/** Runs all phases; resolves to the exit code. */
export async function runChecks(vitestArgs) {
  rmSync(vitestResult, { force: true })
  rmSync(checksResult, { force: true })
  const results = []
  for (const [name, run] of phases(vitestArgs)) {
    process.stdout.write(`\n── ${name}\n`)
    const start = performance.now()
    const exitCode = await run()
    results.push({ name, exitCode, seconds: (performance.now() - start) / 1000 })
    if (exitCode === INTERRUPTED) break
  }
  writeFileSync(checksResult, JSON.stringify(results))
  process.stdout.write('\n── summary\n')
  for (const { name, exitCode, seconds } of results) {
    process.stdout.write(`${exitCode === 0 ? 'ok    ' : 'FAILED'}  ${seconds.toFixed(1).padStart(6)} s  ${name}\n`)
  }
  const failed = results.filter(({ exitCode }) => exitCode !== 0)
  if (results.at(-1)?.exitCode === INTERRUPTED) return INTERRUPTED
  return failed.length === 0 ? 0 : 1
}
