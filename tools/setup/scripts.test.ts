/** The npm scripts: each sets up what it needs, so that it works in a clone where nothing was set up yet. */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { packageFolders, root } from './workspace.mjs'

interface Manifest {
  readonly name: string
  readonly version?: string
  readonly private?: boolean
  readonly scripts?: Readonly<Record<string, string>>
}

const manifestOf = (folder: string) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest

describe('package.json of the workspace', () => {
  it.each(Object.entries(manifestOf(root).scripts ?? {}))('%s goes through the set-up', (_, script) => {
    expect(script).toMatch(/^node tools\/(?:setup\/run\.mjs [a-z:-]+|new-method\/run\.mjs)$/)
  })

  it('names no target that there is not', () => {
    const targets = Object.values(manifestOf(root).scripts ?? {}).map((script) => script.split(' ')[2] ?? '')
    const { stderr } = spawnSync(process.execPath, [join(root, 'tools', 'setup', 'run.mjs'), '?'], { encoding: 'utf8' })
    const known = /one of: (.*)\.\n/.exec(stderr)?.[1]?.split(', ')
    expect(known).toEqual(expect.arrayContaining(targets.filter((target) => target !== '')))
  })
})

describe('package.json of every package', () => {
  const packages = packageFolders().map((folder) => [folder.slice(root.length + 1), manifestOf(folder)] as const)

  it.each(packages)('%s: is built with declarations before it is packed, or is never packed', (folder, manifest) => {
    if (manifest.private) expect(manifest.version).toBeUndefined()
    else if (manifest.scripts?.['build']) {
      const up = '../'.repeat(folder.split(/[\\/]/).length)
      expect(manifest.scripts['prepack']).toBe(`node ${up}tools/setup/run.mjs setup`)
    }
  })

  it('apps/bench: every program has a script that builds it', () => {
    const bench = join(root, 'apps', 'bench')
    const entries = /entry: \[([^\]]*)\]/.exec(readFileSync(join(bench, 'tsup.config.ts'), 'utf8'))?.[1] ?? ''
    const programs = [...entries.matchAll(/'([a-z-]+)'/g)].map(([, name]) => name ?? '')
    const { build, ...scripts } = manifestOf(bench).scripts ?? {}
    expect(build).toBe('tsup')
    expect(programs.length).toBeGreaterThan(3)
    expect(scripts).toEqual(
      Object.fromEntries(programs.map((name) => [name, `node ../../tools/setup/run.mjs bench ${name}`])),
    )
  })
})

describe('a clone where nothing is set up and npm cannot be reached', () => {
  /** The tools and manifests alone; every npm registry is a port where nothing listens. */
  function withBareClone(
    use: (clone: string, run: (...args: string[]) => { status: number | null; stderr: string }) => void,
  ) {
    const clone = mkdtempSync(join(tmpdir(), 'kvloom-bare-'))
    try {
      for (const name of ['package.json', 'pnpm-workspace.yaml', 'pnpm-lock.yaml', 'tools']) {
        cpSync(join(root, name), join(clone, name), { recursive: true })
      }
      const env = { ...process.env, npm_config_registry: 'http://127.0.0.1:9/', npm_config_cache: join(clone, 'cache') }
      const settings = { npm_config_fetch_retries: '0' }
      use(clone, (...args) =>
        spawnSync(process.execPath, args, { cwd: clone, encoding: 'utf8', env: { ...env, ...settings } }),
      )
    } finally {
      rmSync(clone, { recursive: true, force: true })
    }
  }

  it.each(['lint', 'typecheck', 'test:unit', 'docs:build', 'check:unused'])('%s says so in a sentence', (name) => {
    withBareClone((_, run) => {
      const { status, stderr } = run('tools/setup/run.mjs', name)
      expect(stderr).toContain('kvloom: the installation failed: npm cannot be reached.')
      expect(stderr).not.toMatch(/^ {4}at /m)
      expect(status).not.toBe(0)
    })
  })

  it('new-method says so and writes nothing', () => {
    withBareClone((clone, run) => {
      mkdirSync(join(clone, 'packages'))
      cpSync(join(root, 'packages', 'methods'), join(clone, 'packages', 'methods'), {
        recursive: true,
        filter: (path) => !path.endsWith('node_modules'),
      })
      const files = () =>
        readdirSync(clone, { recursive: true, encoding: 'utf8' }).filter((path) => path.startsWith('packages'))
      const before = files()
      const { status, stderr } = run('tools/new-method/run.mjs', '--kind', 'eviction', '--name', 'half-made')
      expect(stderr).toContain('npm cannot be reached')
      expect(stderr).not.toMatch(/^ {4}at /m)
      expect(status).not.toBe(0)
      expect(files()).toEqual(before)
    })
  })
})
