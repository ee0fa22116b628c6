import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { addresses, binaryPackages, fits, missingBinaries, PLATFORMS, readLock } from './lock.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const path = join(here, '..', '..', 'pnpm-lock.yaml')

describe('pnpm-lock.yaml', () => {
  const lock = readLock(path)

  it('knows the packages that come as binaries', () => {
    const names = binaryPackages(lock).map(({ name }) => name.slice(0, name.lastIndexOf('@')))
    expect(new Set(names)).toEqual(new Set(['@biomejs/biome', 'esbuild', 'oxc-resolver', 'rollup', 'turbo']))
  })

  it.each(PLATFORMS)('has all of them for $name', (platform) => {
    for (const { name, binaries } of binaryPackages(lock)) {
      const fitting = binaries.filter((binary) => fits(lock.packages[binary], platform))
      expect(fitting, name).not.toEqual([])
    }
  })

  it('names no server', () => {
    expect(addresses(readFileSync(path, 'utf8'))).toEqual([])
  })
})

describe('the check of the lock file', () => {
  const broken = (change: (text: string) => string) => {
    const folder = mkdtempSync(join(tmpdir(), 'kvloom-lock-'))
    try {
      const file = join(folder, 'pnpm-lock.yaml')
      writeFileSync(file, change(readFileSync(path, 'utf8').replaceAll('\r', '')))
      const script = [join(here, 'check.mjs'), '--no-install', '--lock', file]
      return { ...spawnSync(process.execPath, script, { encoding: 'utf8' }), lock: readLock(file) }
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }

  it('misses one binary of one platform', () => {
    const { status, stdout, lock } = broken((text) => text.replaceAll(/^ +'@turbo\/darwin-arm64'.*\n/gm, ''))
    expect(missingBinaries(lock)).toEqual([
      expect.stringMatching(/^turbo@.* has no binary for macOS arm64 in pnpm-lock/),
    ])
    expect(stdout).toContain('--fix-lockfile')
    expect(status).toBe(1)
  })

  it('tells musl from glibc', () => {
    const { lock } = broken((text) => text.replaceAll(/^ +'@biomejs\/cli-linux-x64-musl'.*\n/gm, ''))
    expect(missingBinaries(lock)).toEqual([expect.stringMatching(/^@biomejs\/biome@.* for Linux x64 \(musl\)/)])
  })

  it('misses also a package that lost every binary', () => {
    const { status, stdout } = broken((text) => text.replaceAll(/^ +'@turbo\/[a-z0-9-]+': .*\n/gm, ''))
    expect(stdout).toMatch(/turbo@.* offers @turbo\/windows-64, which pnpm-lock\.yaml leaves out/)
    expect(status).toBe(1)
  })

  it('refuses the address of a server', () => {
    const { status, stdout } = broken((text) =>
      text.replace('resolution: {integrity:', 'resolution: {tarball: https://registry.example.org/a.tgz, integrity:'),
    )
    expect(stdout).toContain('names a server: https://registry.example.org/a.tgz')
    expect(status).toBe(1)
  })
})
