// Where things are: the root, the packages, their files, and the stamps that say what is already done.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

/** Stamps live in node_modules, so that they die with what they describe. */
const stampFolder = join(root, 'node_modules', '.kvloom')

export const vitestResult = join(stampFolder, 'vitest.json')
export const checksResult = join(stampFolder, 'checks.json')

/** `pnpm@x.y.z`, from package.json. */
export function pinnedPnpm() {
  const { packageManager } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  return packageManager.split('+')[0]
}

/** Folders of all workspace packages, found by the patterns of pnpm-workspace.yaml (`folder`, `folder/*` or `!folder`); those of another clone on demand. */
export function packageFolders(workspace = root) {
  const block = /^packages:\n((?: {2}- .*\n)+)/m.exec(
    readFileSync(join(workspace, 'pnpm-workspace.yaml'), 'utf8').replaceAll('\r', ''),
  )
  const patterns = (block?.[1] ?? '')
    .trim()
    .split('\n')
    .map((line) => line.replace(/^\s*- /, '').replaceAll(/['"]/g, ''))
  const folders = patterns.flatMap((pattern) => {
    if (!pattern.endsWith('/*')) return [join(workspace, pattern)]
    const parent = join(workspace, pattern.slice(0, -2))
    return existsSync(parent) ? readdirSync(parent).map((name) => join(parent, name)) : []
  })
  const left = patterns.filter((pattern) => pattern.startsWith('!')).map((pattern) => join(workspace, pattern.slice(1)))
  return folders.filter((folder) => existsSync(join(folder, 'package.json')) && !left.includes(folder)).sort()
}

/** Hash of the contents of the given files. */
export function hashOfContents(files) {
  const hash = createHash('sha256')
  for (const file of files) hash.update(relative(root, file)).update('\0').update(readFileSync(file)).update('\0')
  return hash.digest('hex')
}

/** Hash of names, sizes and times of the given files: quick, and enough to say that nothing was touched. */
export function hashOfTimes(files) {
  const hash = createHash('sha256')
  for (const file of files) {
    const { size, mtimeMs } = statSync(file)
    hash.update(`${relative(root, file)}\0${size}\0${mtimeMs}\n`)
  }
  return hash.digest('hex')
}

/** Every file under a folder, in a fixed order. An absent folder has none. */
export function filesUnder(folder) {
  if (!existsSync(folder)) return []
  const entries = readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))
  return entries.flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return entry.name === 'node_modules' ? [] : filesUnder(path)
    return entry.isFile() ? [path] : []
  })
}

/** The stamp of that name, or `undefined` when there is none or it cannot be read. */
export function readStamp(name) {
  try {
    return JSON.parse(readFileSync(join(stampFolder, `${name}.json`), 'utf8'))
  } catch {
    return undefined
  }
}

export function writeStamp(name, value) {
  mkdirSync(stampFolder, { recursive: true })
  writeFileSync(join(stampFolder, `${name}.json`), JSON.stringify(value))
}

/** Path of a command that a development dependency brings, to be run with `node`: no shell, no `.cmd` files. */
export function toolScript(packageName, command) {
  const folder = join(root, 'node_modules', packageName)
  const { bin } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  return join(folder, typeof bin === 'string' ? bin : bin[command])
}
