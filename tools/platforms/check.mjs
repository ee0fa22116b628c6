// Fails when pnpm-lock.yaml does not serve every platform: `node tools/platforms/check.mjs [--no-install] [--lock FILE]`.
//
// First the lock is read. Then a frozen install in a scratch folder, for all platforms at once, shows that each binary can be
// had and is what the lock says; that needs npm (or its cache) and takes some ten seconds.
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { parse, stringify } from 'yaml'
import { explain, runNpx } from '../setup/child.mjs'
import { packageFolders, pinnedPnpm, root } from '../setup/workspace.mjs'
import { addresses, binaryPackages, fits, missingBinaries, PLATFORMS, readLock, unlockedOptions } from './lock.mjs'

const CURE =
  'Run `npm run -s pnpm -- install --lockfile-only --no-frozen-lockfile --fix-lockfile` and commit pnpm-lock.yaml.'

const { values } = parseArgs({
  options: { 'no-install': { type: 'boolean', default: false }, lock: { type: 'string' } },
})
const path = values.lock ? resolve(values.lock) : join(root, 'pnpm-lock.yaml')
const lock = readLock(path)

const problems = [...missingBinaries(lock), ...unlockedOptions(lock, join(root, 'node_modules', '.pnpm'))]
if (problems.length > 0) problems.push(CURE)
problems.push(...addresses(readFileSync(path, 'utf8')))
if (problems.length === 0 && !values['no-install']) problems.push(...(await installEverywhere()))

for (const problem of problems) process.stdout.write(`${problem}\n`)
const packages = binaryPackages(lock)
const binaries = packages.flatMap((each) => each.binaries)
process.stdout.write(
  `${packages.length} packages with ${binaries.length} binaries on ${PLATFORMS.length} platforms: ${problems.length === 0 ? 'all there' : 'not all there'}\n`,
)
process.exitCode = problems.length === 0 ? 0 : 1

/** @returns {Promise<string[]>} a sentence for every binary that a frozen install does not bring */
async function installEverywhere() {
  const scratch = mkdtempSync(join(tmpdir(), 'kvloom-platforms-'))
  try {
    for (const folder of [root, ...packageFolders()]) copyInto(scratch, join(folder, 'package.json'))
    copyFileSync(path, join(scratch, 'pnpm-lock.yaml'))
    const workspace = parse(readFileSync(join(root, 'pnpm-workspace.yaml'), 'utf8'))
    const all = (property) => [...new Set(PLATFORMS.map((platform) => platform[property]).filter(Boolean))]
    workspace.supportedArchitectures = { os: all('os'), cpu: all('cpu'), libc: all('libc') }
    writeFileSync(join(scratch, 'pnpm-workspace.yaml'), stringify(workspace))
    let output = ''
    const capture = (tail) => {
      output = tail
    }
    const args = [pinnedPnpm(), 'install', '--frozen-lockfile', '--ignore-scripts', '--prefer-offline']
    const exitCode = await runNpx(args, { cwd: scratch, capture, quiet: true })
    if (exitCode !== 0) return [`${explain('a frozen install for every platform', exitCode, output)}\n${output}`]
    const store = join(scratch, 'node_modules', '.pnpm')
    const wanted = Object.entries(lock.packages).filter(
      ([, { os, cpu, libc }]) => cpu && PLATFORMS.some((platform) => fits({ os, cpu, libc }, platform)),
    )
    return wanted
      .filter(([binary]) => !existsSync(join(store, binary.replace('/', '+'))))
      .map(([binary]) => `a frozen install for every platform does not bring ${binary}`)
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

function copyInto(scratch, file) {
  const copy = join(scratch, relative(root, file))
  mkdirSync(dirname(copy), { recursive: true })
  copyFileSync(file, copy)
}
