// Runs other programs: signals go on once, exit codes come back, and failures that a user can cure are said in words.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { root } from './workspace.mjs'

/** A failure whose message is all that the user needs. */
export class SetupError extends Error {
  constructor(message, exitCode = 1) {
    super(message)
    this.name = 'SetupError'
    this.exitCode = exitCode
  }
}

const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP']
const TAIL_CHARACTERS = 20_000

/**
 * Runs a program in the root and resolves to its exit code; a program ended by a signal gives 128 + its number.
 * With `capture` both of its outputs go to our stderr (unless `quiet`), and `capture` is called with the end of them.
 */
export function runProgram(
  program,
  args,
  { stdio = 'inherit', env = {}, capture, quiet = false, shell = false, cwd = root } = {},
) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: capture ? ['ignore', 'pipe', 'pipe'] : stdio,
      shell,
    })
    let tail = ''
    for (const stream of capture ? [child.stdout, child.stderr] : []) {
      stream.on('data', (chunk) => {
        if (!quiet) process.stderr.write(chunk)
        tail = (tail + chunk).slice(-TAIL_CHARACTERS)
      })
    }
    const stop = forwardSignals(child)
    child.on('error', (error) => {
      stop()
      reject(error)
    })
    child.on('close', (code, signal) => {
      stop()
      capture?.(tail)
      resolve(signal ? 128 + (constants.signals[signal] ?? 0) : (code ?? 1))
    })
  })
}

/** Runs a JavaScript file with this Node. */
export function runNode(script, args, options) {
  return runProgram(process.execPath, [script, ...args], options)
}

/** Runs a pinned package through npm's npx. `args` start with `name@version`. */
export function runNpx(args, options = {}) {
  // npm's own log level would silence the errors of a nested run.
  const env = { ...options.env, npm_config_loglevel: 'notice', npm_config_update_notifier: 'false' }
  const script = npxScript()
  if (script) return runNode(script, ['--yes', ...args], { ...options, env })
  const windows = process.platform === 'win32'
  return runProgram(windows ? 'npx.cmd' : 'npx', ['--yes', ...args], { ...options, env, shell: windows })
}

/** npx as a JavaScript file: beside the npm that runs us, or beside this Node. */
function npxScript() {
  const node = dirname(process.execPath)
  return [
    process.env.npm_execpath && join(dirname(process.env.npm_execpath), 'npx-cli.js'),
    join(node, 'node_modules', 'npm', 'bin', 'npx-cli.js'),
    join(node, '..', 'lib', 'node_modules', 'npm', 'bin', 'npx-cli.js'),
  ].find((path) => path && existsSync(path))
}

/**
 * While the child runs, a signal does not end us: the child decides. On a terminal Ctrl-C reaches the whole group, so the
 * child has it already; everything else goes on to it, once.
 */
function forwardSignals(child) {
  const sent = new Set()
  const terminal = process.stdin.isTTY || process.stdout.isTTY || process.stderr.isTTY
  const handlers = FORWARDED.map((signal) => {
    const handler = () => {
      if (sent.has(signal) || (signal === 'SIGINT' && terminal)) return
      sent.add(signal)
      child.kill(signal)
    }
    process.on(signal, handler)
    return () => process.off(signal, handler)
  })
  return () => {
    for (const off of handlers) off()
  }
}

const CAUSES = [
  [/ENOSPC|no space left/i, 'the disk is full. Free some space and run the same command again; what is done is kept.'],
  [
    /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT|META_FETCH_FAIL|network/i,
    'npm cannot be reached. Check the network (and the proxy settings of npm) and run the same command again.',
  ],
  [
    /ERR_PNPM_OUTDATED_LOCKFILE/,
    'pnpm-lock.yaml does not fit the package.json files. Run `npm run -s pnpm -- install` and commit the lockfile.',
  ],
  [/EACCES|EPERM|EROFS/, 'no permission to write here. Check who owns this folder and the cache folder of npm.'],
]

/** The cure for a known failure, else the plain fact. */
export function explain(step, exitCode, output) {
  const cause = CAUSES.find(([pattern]) => pattern.test(output))
  return `${step} failed: ${cause ? cause[1] : `exit code ${exitCode}; its messages stand above.`}`
}
