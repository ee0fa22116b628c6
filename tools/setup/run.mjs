// Entry of `npm start`, `npm test` and every `npm run NAME`: prepares the workspace (only what is stale), then does the real
// work. Needs Node and npm, nothing else; set-up speaks on stderr, stdout belongs to the command.

import { runChecks } from './checks.mjs'
import { runNpx, SetupError } from './child.mjs'
import { runCommandLine } from './command-line.mjs'
import { prepare } from './prepare.mjs'
import { runBench, runTool, toolNames } from './tools.mjs'
import { pinnedPnpm } from './workspace.mjs'

const OLDEST_NODE = 20

const targets = {
  /** `npm start -- ARGS` is `kvloom compare ARGS`. */
  start: async (args) => {
    await prepare()
    await runCommandLine(['compare', ...args])
  },
  /** `npm run -s kvloom -- ARGS`. */
  kvloom: async (args) => {
    await prepare()
    await runCommandLine(args)
  },
  /** `npm test -- ARGS`: every check, then vitest with ARGS. */
  test: async (args) => {
    await prepare()
    process.exitCode = await runChecks(args)
  },
  /** Set-up alone, declarations included. */
  setup: async () => {
    await prepare({ types: true })
  },
  /** Builds and runs a program of apps/bench. */
  bench: async (args) => {
    process.exitCode = await runBench(args)
  },
  /** The pinned pnpm, for machines without one: `npm run -s pnpm -- install`. */
  pnpm: async (args) => {
    process.exitCode = await runNpx([pinnedPnpm(), ...args], { stdio: 'inherit' })
  },
}
for (const tool of toolNames) {
  targets[tool] = async (args) => {
    process.exitCode = await runTool(tool, args)
  }
}

const [name = '', ...args] = process.argv.slice(2)
const major = Number(process.versions.node.split('.')[0])

if (major < OLDEST_NODE) {
  fail(
    `kvloom needs Node ${OLDEST_NODE} or newer; this is Node ${process.versions.node}. Install a newer Node and try again.`,
  )
} else if (!Object.hasOwn(targets, name)) {
  fail(`unknown target '${name}'; one of: ${Object.keys(targets).join(', ')}.`)
} else {
  try {
    await targets[name](args)
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    fail(error.message, error.exitCode)
  }
}

function fail(message, exitCode = 1) {
  process.stderr.write(`\nkvloom: ${message}\n`)
  process.exitCode = exitCode
}
