// Does the lock file hold, for every platform that kvloom is developed on, the binaries of each package that ships some?
//
// Such a package (turbo, rollup, biome, esbuild, …) lists one optional dependency a platform; the package manager installs
// the one that fits. An entry that the lock lacks is never installed there, and a frozen install says nothing about it.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'

/**
 * @typedef {object} Platform
 * @property {string} name as messages call it
 * @property {string} os
 * @property {string} cpu
 * @property {string} [libc] on Linux
 *
 * @typedef {object} BinaryPackage what offers binaries
 * @property {string} name `name@version`
 * @property {readonly string[]} binaries `name@version` of its optional dependencies that are made for one processor
 */

/** @type {readonly Platform[]} */
export const PLATFORMS = [
  { name: 'macOS arm64', os: 'darwin', cpu: 'arm64' },
  { name: 'macOS x64', os: 'darwin', cpu: 'x64' },
  { name: 'Windows x64', os: 'win32', cpu: 'x64' },
  { name: 'Windows arm64', os: 'win32', cpu: 'arm64' },
  { name: 'Linux x64 (glibc)', os: 'linux', cpu: 'x64', libc: 'glibc' },
  { name: 'Linux arm64 (glibc)', os: 'linux', cpu: 'arm64', libc: 'glibc' },
  { name: 'Linux x64 (musl)', os: 'linux', cpu: 'x64', libc: 'musl' },
  { name: 'Linux arm64 (musl)', os: 'linux', cpu: 'arm64', libc: 'musl' },
]

/** @param {string} path of a pnpm-lock.yaml */
export const readLock = (path) => parse(readFileSync(path, 'utf8'))

/** `@scope/name@1.2.3(peer@4)` to its parts; the peers go. */
function partsOf(key) {
  const plain = key.split('(')[0]
  const at = plain.lastIndexOf('@')
  return { name: plain.slice(0, at), version: plain.slice(at + 1) }
}

/** @returns {BinaryPackage[]} what the lock knows of packages with binaries */
export function binaryPackages(lock) {
  const found = new Map()
  for (const [key, { optionalDependencies }] of Object.entries(lock.snapshots)) {
    const binaries = Object.entries(optionalDependencies ?? {})
      .map(([name, version]) => `${name}@${version.split('(')[0]}`)
      .filter((binary) => lock.packages[binary]?.cpu)
    const { name, version } = partsOf(key)
    if (binaries.length > 0) found.set(`${name}@${version}`, { name: `${name}@${version}`, binaries })
  }
  return [...found.values()]
}

/** Whether a package of the lock may be installed on a platform; what is not said is allowed. */
export function fits({ os, cpu, libc }, platform) {
  const allows = (list, value) => !list || value === undefined || list.includes(value)
  return allows(os, platform.os) && allows(cpu, platform.cpu) && allows(libc, platform.libc)
}

/** @returns {string[]} a sentence for every platform on which a package finds no binary in the lock */
export function missingBinaries(lock) {
  return binaryPackages(lock).flatMap(({ name, binaries }) =>
    PLATFORMS.filter((platform) => !binaries.some((binary) => fits(lock.packages[binary], platform))).map(
      (platform) => `${name} has no binary for ${platform.name} in pnpm-lock.yaml`,
    ),
  )
}

/**
 * What the manifests of installed packages offer and the lock leaves out: it finds also a package that lost all of them.
 *
 * @param {string} store the folder node_modules/.pnpm
 * @returns {string[]} a sentence for each
 */
export function unlockedOptions(lock, store) {
  const locked = new Map()
  for (const [key, { dependencies, optionalDependencies }] of Object.entries(lock.snapshots)) {
    const { name, version } = partsOf(key)
    locked.set(`${name}@${version}`, { ...dependencies, ...optionalDependencies })
  }
  const seen = new Set()
  return readdirSync(store).flatMap((folder) => {
    const { name, version } = partsOf(folder.split('_')[0].replace('+', '/'))
    if (!name || seen.has(`${name}@${version}`) || !locked.has(`${name}@${version}`)) return []
    seen.add(`${name}@${version}`)
    const manifest = JSON.parse(readFileSync(join(store, folder, 'node_modules', name, 'package.json'), 'utf8'))
    return Object.keys(manifest.optionalDependencies ?? {})
      .filter((option) => !(option in locked.get(`${name}@${version}`)))
      .map((option) => `${name}@${version} offers ${option}, which pnpm-lock.yaml leaves out`)
  })
}

/** @returns {string[]} a sentence for every address of a server in the lock: it would bind everybody to that server */
export const addresses = (text) =>
  [...text.matchAll(/\b(?:https?|git\+ssh):\/\/[^\s}']+/g)].map(
    ([address]) => `pnpm-lock.yaml names a server: ${address}`,
  )
