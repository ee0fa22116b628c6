// Installs and builds what is stale. Two stamps make the usual case quick: one over the manifests, one over the sources.
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { explain, runNpx, SetupError } from './child.mjs'
import {
  filesUnder,
  hashOfContents,
  hashOfTimes,
  packageFolders,
  pinnedPnpm,
  readStamp,
  root,
  writeStamp,
} from './workspace.mjs'

const LOCK = join(root, '.turbo', 'setup.lock')
const LOCK_STALE_MS = 30 * 60_000
const LOCK_POLL_MS = 300

/**
 * Makes the workspace ready to run, or with `types` also to be published (declarations take longer to build). Without `build`
 * it is only installed, which is enough for tools that read sources. Silent when there is nothing to do.
 */
export async function prepare({ build: built = true, types = false } = {}) {
  const tasks = [...(built ? ['build'] : []), ...(types ? ['types'] : [])]
  if (isInstalled() && tasks.every(isFresh)) return
  await withLock(async () => {
    if (!isInstalled()) await install()
    if (!tasks.every(isFresh)) await build(tasks)
  })
}

function installHash() {
  const manifests = packageFolders().map((folder) => join(folder, 'package.json'))
  const files = [
    join(root, 'package.json'),
    join(root, 'pnpm-workspace.yaml'),
    join(root, 'pnpm-lock.yaml'),
    ...manifests,
  ]
  return `${process.platform}-${process.arch}-${hashOfContents(files)}`
}

function isInstalled() {
  return readStamp('install')?.hash === installHash()
}

async function install() {
  say('installing the dependencies (once)')
  const args = [pinnedPnpm(), 'install', '--frozen-lockfile', '--config.confirm-modules-purge=false']
  await step('the installation', args)
  writeStamp('install', { hash: installHash() })
}

/** Everything a build reads; tests and generated files are not part of it. */
function buildInputs() {
  const folders = packageFolders()
  const own = ['package.json', 'tsup.config.ts', 'tsconfig.json']
  const files = folders.flatMap((folder) => [
    ...own.map((name) => join(folder, name)).filter((path) => existsSync(path)),
    ...filesUnder(join(folder, 'src')),
    ...filesUnder(join(folder, 'assembly')),
    ...filesUnder(join(folder, 'golden')).filter((path) => path.endsWith('.ts')),
  ])
  const shared = [
    ...filesUnder(join(root, 'tools', 'presets')),
    join(root, 'tsconfig.base.json'),
    join(root, 'turbo.json'),
  ]
  return [...files, ...shared].filter((path) => !path.endsWith('.test.ts') && !path.endsWith('.generated.ts'))
}

/** What a task of turbo.json writes. */
function outputsOf(task) {
  return packageFolders().flatMap((folder) => {
    const built = filesUnder(join(folder, 'dist'))
    if (task === 'types') return built.filter((path) => path.endsWith('.d.ts'))
    const generated = filesUnder(join(folder, 'src')).filter((path) => path.endsWith('.generated.ts'))
    return [...built.filter((path) => !path.endsWith('.d.ts')), ...generated]
  })
}

function isFresh(task) {
  const stamp = readStamp(task)
  return stamp?.inputs === hashOfTimes(buildInputs()) && stamp.outputs === hashOfTimes(outputsOf(task))
}

async function build(tasks) {
  say('building what changed')
  const inputs = hashOfTimes(buildInputs())
  await turbo(tasks, './packages/**')
  for (const task of tasks) writeStamp(task, { inputs, outputs: hashOfTimes(outputsOf(task)) })
}

/** Builds one app, which the packages do not need; turbo knows whether it is stale. The workspace must be prepared. */
export async function buildApp(name) {
  await withLock(() => turbo(['build'], name))
}

async function turbo(tasks, filter) {
  const concurrency = `--concurrency=${Math.max(2, availableParallelism())}`
  const args = ['run', ...tasks, `--filter=${filter}`, '--output-logs=errors-only', concurrency]
  // Through pnpm, because turbo looks for it on the path.
  await step('the build', [pinnedPnpm(), 'exec', 'turbo', ...args])
}

async function step(name, npxArgs) {
  let output = ''
  const env = { TURBO_TELEMETRY_DISABLED: '1', TURBO_NO_UPDATE_NOTIFIER: '1', DO_NOT_TRACK: '1' }
  const capture = (tail) => {
    output = tail
  }
  const exitCode = await runNpx(npxArgs, { env, capture })
  if (exitCode !== 0) throw new SetupError(explain(name, exitCode, output), exitCode)
}

/** Two commands started at once in one folder do not build over each other. */
async function withLock(work) {
  let told = false
  while (!takeLock()) {
    if (!told) say('waiting for another set-up in this folder')
    told = true
    await sleep(LOCK_POLL_MS)
  }
  const release = () => rmSync(LOCK, { force: true })
  process.once('exit', release)
  try {
    await work()
  } finally {
    process.off('exit', release)
    release()
  }
}

function takeLock() {
  mkdirSync(join(root, '.turbo'), { recursive: true })
  try {
    const file = openSync(LOCK, 'wx')
    writeSync(file, String(process.pid))
    closeSync(file)
    return true
  } catch (error) {
    if (error.code !== 'EEXIST') throw new SetupError(explain('the set-up', 1, String(error)))
  }
  if (isStale()) rmSync(LOCK, { force: true })
  return false
}

function isStale() {
  try {
    if (Date.now() - statSync(LOCK).mtimeMs > LOCK_STALE_MS) return true
    const holder = Number(readFileSync(LOCK, 'utf8'))
    if (holder > 0) process.kill(holder, 0)
    return false
  } catch (error) {
    return error.code === 'ESRCH'
  }
}

function say(message) {
  process.stderr.write(`kvloom: ${message} ...\n`)
}
