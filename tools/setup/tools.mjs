// The development tools behind `npm run NAME`. Each says what must be there before it runs, so that every one of them works in a
// clone where nothing was set up yet.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { runNode, runNpx, SetupError } from './child.mjs'
import { buildApp, prepare } from './prepare.mjs'
import { pinnedPnpm, root, toolScript } from './workspace.mjs'

const INSTALLED = { build: false }
/** Built too: kernels generate a source file, without which nothing that reads sources is complete. */
const BUILT = {}
const DECLARED = { types: true }

const bin = (packageName, command, ...fixed) => {
  return (args) => runNode(toolScript(packageName, command), [...fixed, ...args])
}
const own = (...path) => {
  return (args) => runNode(join(root, 'tools', ...path), args)
}

/** What each needs, and how it runs with the arguments of the command; the result is an exit code. */
const tools = {
  typecheck: [BUILT, bin('typescript', 'tsc', '--noEmit')],
  lint: [INSTALLED, bin('@biomejs/biome', 'biome', 'check', '--error-on-warnings')],
  format: [INSTALLED, bin('@biomejs/biome', 'biome', 'check', '--write')],
  'test:unit': [BUILT, bin('vitest', 'vitest', 'run')],
  'check:boundaries': [BUILT, own('boundaries', 'check.mjs')],
  'check:unused': [BUILT, bin('knip', 'knip')],
  'check:packages': [DECLARED, own('check-packages', 'run.mjs')],
  'check:third-party': [DECLARED, own('third-party', 'run.mjs')],
  'check:platforms': [INSTALLED, own('platforms', 'check.mjs')],
  'check:commands': [DECLARED, own('doc-examples', 'run.mjs')],
  'method-lists': [INSTALLED, own('method-lists', 'run.mjs')],
  'docs:tables': [BUILT, own('doc-tables', 'run.mjs')],
  'docs:reference': [BUILT, bin('typedoc', 'typedoc')],
  'docs:dev': [INSTALLED, (args) => runNpx([pinnedPnpm(), '--filter', '@kvloom/docs', 'run', 'docs:dev', ...args])],
  'docs:build': [BUILT, buildDocs],
  changeset: [INSTALLED, bin('@changesets/cli', 'changeset')],
  release: [DECLARED, bin('@changesets/cli', 'changeset', 'publish')],
}

export const toolNames = Object.keys(tools)

/** Sets up what the tool needs and runs it; resolves to its exit code. */
export async function runTool(name, args) {
  const [needs, run] = tools[name]
  await prepare(needs)
  return run(args)
}

async function buildDocs(args) {
  const exitCode = await runNode(toolScript('typedoc', 'typedoc'), [])
  if (exitCode !== 0) return exitCode
  return runNpx([pinnedPnpm(), '--filter', '@kvloom/docs', 'run', 'docs:build', ...args])
}

/** Builds apps/bench and runs one of its programs in that folder. */
export async function runBench([name = '', ...args]) {
  await prepare()
  await buildApp('@kvloom/bench')
  const folder = join(root, 'apps', 'bench')
  const script = join(folder, 'dist', `${name}.js`)
  if (!/^[a-z-]+$/.test(name) || !existsSync(script)) {
    throw new SetupError(`there is no bench '${name}'; apps/bench/package.json lists them.`)
  }
  return runNode(script, args, { cwd: folder })
}
