import { execFile, spawnSync } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { KINDS } from './templates.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..')
let workspace: string

// A small workspace beside the real one, with links to the real core; npm packages are found by walking up.
beforeAll(() => {
  mkdirSync(join(root, '.turbo'), { recursive: true })
  workspace = mkdtempSync(join(root, '.turbo', 'new-method-'))
  for (const file of [
    'pnpm-workspace.yaml',
    'packages/methods/package.json',
    'packages/methods/src/generated/methods.ts',
    'packages/core/src/index.ts',
  ])
    write(file, readFileSync(join(root, file), 'utf8'))
  cpSync(join(root, 'tsconfig.base.json'), join(workspace, 'tsconfig.base.json'))
  cpSync(join(root, 'tools', 'presets'), join(workspace, 'tools', 'presets'), { recursive: true })
  const biome = JSON.parse(readFileSync(join(root, 'biome.json'), 'utf8'))
  biome.files.includes = biome.files.includes.filter((pattern: string) => pattern !== '!**/.turbo')
  write('biome.json', JSON.stringify(biome))
  for (const name of ['core', 'conformance', 'golden', 'kernels']) link(`@kvloom/${name}`, join(root, 'packages', name))
  link('@tensorflow/tfjs-core', join(root, 'packages', 'core', 'node_modules', '@tensorflow', 'tfjs-core'))
  for (const kind of KINDS)
    expect(generate('--kind', kind, '--name', `my-${kind}`)).toMatchObject({ status: 0, stderr: '' })
})
afterAll(() => rmSync(workspace, { recursive: true, force: true }))

describe('npm run new-method', () => {
  it.each([
    ['eviction', 'eviction/l2-norm'],
    ['quantizers', 'quantizers/kivi'],
    ['low-rank', 'low-rank/lorc'],
  ])('makes a package of %s of the shape of %s', (kind, model) => {
    const name = `my-${kind}`
    const [made, sibling] = [join(workspace, 'packages', kind, name), join(root, 'packages', model)]
    const own = basename(model)
    // Data and further sources differ between methods.
    const files = (folder: string, called: string) =>
      ['.', 'src', 'golden']
        .flatMap((part) => readdirSync(join(folder, part)).map((file) => join(part, file)))
        .filter((file) => !/dist|node_modules|\.turbo/.test(file))
        .map((file) => file.replaceAll(called, 'NAME'))
    expect(files(sibling, own)).toEqual(
      expect.arrayContaining(files(made, name).filter((file) => file !== 'golden/NAME')),
    )

    const manifestOf = (folder: string) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
    const [mine, its] = [manifestOf(made), manifestOf(sibling)]
    expect(Object.keys(mine)).toEqual(Object.keys(its))
    for (const field of [
      'exports',
      'scripts',
      'files',
      'engines',
      'peerDependencies',
      'peerDependenciesMeta',
      'license',
    ])
      expect(mine[field], field).toEqual(its[field])
    for (const dependency of ['@kvloom/conformance', '@kvloom/golden'])
      expect(mine.devDependencies[dependency]).toBe('workspace:^')

    const text = (folder: string, file: string) => readFileSync(join(folder, file), 'utf8')
    for (const file of ['tsconfig.json', 'tsup.config.ts']) expect(text(made, file)).toBe(text(sibling, file))
    const exported = (folder: string) => text(folder, 'src/index.ts').match(/\w+(?= \})/g)?.length
    expect(text(made, 'src/index.ts')).toMatch(/export \{ my\w+Options \} from '.\/options'/)
    expect(exported(made)).toBe(2)
    for (const suite of ['testGolden(', 'testCompressor(']) {
      expect(text(sibling, `src/${own}.test.ts`)).toContain(suite)
      expect(text(made, `src/${name}.test.ts`)).toContain(suite)
    }
    expect(text(made, 'golden/adapter.ts')).toMatch(/^export const adapter: CaseAdapter/m)
    expect(text(sibling, 'golden/adapter.ts')).toMatch(/^export const adapter: CaseAdapter/m)
  })

  it('enters it in the lists of methods, and nothing that is no folder stays there', () => {
    const manifest = JSON.parse(readFileSync(join(workspace, 'packages/methods/package.json'), 'utf8'))
    const names = KINDS.map((kind) => `@kvloom/my-${kind}`)
    expect(Object.keys(manifest.dependencies)).toEqual(expect.arrayContaining(names))
    const list = readFileSync(join(workspace, 'packages/methods/src/generated/methods.ts'), 'utf8')
    expect(list).toContain("import { myEviction } from '@kvloom/my-eviction'")
    expect(list).toMatch(/methods: readonly Method\[\] = \[[^\]]*\n {2}myEviction,\n/)
    expect(list).not.toContain('@kvloom/kivi')
    expect(readFileSync(join(workspace, 'packages/methods/src/generated/golden.ts'), 'utf8')).toContain(
      "import { adapter as myEviction } from '@kvloom/my-eviction/golden'",
    )
    expect(readFileSync(join(workspace, 'packages/methods/src/generated/packages.ts'), 'utf8')).toContain(
      "'@kvloom/my-eviction': () => import('@kvloom/my-eviction'),",
    )
  })

  it('touches its own folder and what is made from the folders, nothing else', () => {
    const git = (...args: string[]) => spawnSync('git', args, { cwd: workspace, encoding: 'utf8' }).stdout
    write('.gitignore', 'node_modules\n')
    git('init', '--quiet')
    git('add', '--all')
    git('-c', 'user.name=t', '-c', 'user.email=t@example.org', 'commit', '--quiet', '--message', 'before')
    expect(generate('--kind', 'recall', '--name', 'touches-little')).toMatchObject({ status: 0, stderr: '' })
    const touched = git('status', '--porcelain', '--untracked-files=all')
      .trimEnd()
      .split('\n')
      .map((line) => line.slice(3))
    const own = touched.filter((path) => path.startsWith('packages/recall/touches-little/'))
    expect(own.length).toBeGreaterThan(8)
    expect(touched.filter((path) => !own.includes(path))).toEqual([
      'packages/methods/package.json',
      'packages/methods/src/generated/golden.ts',
      'packages/methods/src/generated/methods.ts',
      'packages/methods/src/generated/packages.ts',
      '.changeset/new-touches-little.md',
    ])
    rmSync(join(workspace, '.git'), { recursive: true, force: true })
    rmSync(join(workspace, 'packages/recall/touches-little'), { recursive: true })
  })

  it('makes code of every kind that type-checks', async () => {
    write(
      'tsconfig.json',
      JSON.stringify({
        extends: './tsconfig.base.json',
        compilerOptions: {
          noEmit: true,
          customConditions: ['kvloom-source'],
          typeRoots: [join(root, 'node_modules', '@types')],
        },
        include: KINDS.flatMap((kind) => [`packages/${kind}/*/src`, `packages/${kind}/*/golden`]),
      }),
    )
    const { stdout } = await node('typescript/bin/tsc', ['-p', workspace])
    // What is wrong in the real packages is not this test's business.
    const own = stdout.split('\n').filter((line) => line.startsWith('packages/'))
    expect(own).toEqual([])
  })

  it('makes tests of every kind that pass', async () => {
    write(
      'vitest.config.mjs',
      `export default {
        resolve: { conditions: ['kvloom-source'] },
        ssr: { resolve: { conditions: ['kvloom-source'], externalConditions: ['node', 'import'] } },
        test: { include: ['packages/**/*.test.ts'], testTimeout: 120_000, hookTimeout: 120_000 },
      }`,
    )
    const { exitCode, stdout, stderr } = await node('vitest/vitest.mjs', ['run', '--root', workspace])
    expect(stdout + stderr).toContain(`${KINDS.length} passed`)
    expect(exitCode).toBe(0)
  }, 540_000)

  it('makes code that the linter and formatter accept', async () => {
    const { exitCode, stderr } = await node('@biomejs/biome/bin/biome', ['check', '--error-on-warnings', 'packages'])
    expect(exitCode, stderr).toBe(0)
  })

  it.each([
    [['--kind', 'evictions', '--name', 'x'], "--kind is 'evictions'"],
    [['--kind', 'eviction', '--name', 'My Method'], "--name is 'My Method'"],
    [['--kind', 'recall', '--name', 'my-eviction'], 'there is already a package @kvloom/my-eviction'],
    [['--kind', 'recall'], "--name is ''"],
    [['--kind', 'recall', '--name', 'default'], "--name is 'default', a word of JavaScript"],
    [['--kind', 'recall', '--name', 'compose'], "@kvloom/core exports 'compose' already"],
    [
      ['--kind', 'recall', '--name', 'x', '--title', "Ada's"],
      '--title is "Ada\'s"; it must be one line without quotes',
    ],
    [['--kind', 'recall', '--nam', 'x'], "Unknown option '--nam'. Allowed: --kind, --name,"],
  ])('refuses %j', (args, message) => {
    const { status, stderr } = generate(...args)
    expect(stderr).toContain(message)
    expect(stderr).not.toContain('    at ')
    expect(status).toBe(1)
  })

  it.each([
    ['a workspace without families', 'pnpm-workspace.yaml', 'packages: []\n', 'names no folders of methods'],
    ['a formatter that cannot run', 'biome.json', '{ "files": 1 }', 'formatting failed'],
  ])('writes nothing when it meets %s', (_, path, text, message) => {
    const good = readFileSync(join(workspace, path), 'utf8')
    write(path, text)
    try {
      const before = snapshot()
      const { status, stderr } = generate('--kind', 'recall', '--name', 'half-made')
      expect(stderr).toContain(message)
      expect(stderr).toContain('Nothing was written.')
      expect(stderr).not.toContain('    at ')
      expect(status).not.toBe(0)
      expect(snapshot()).toEqual(before)
    } finally {
      write(path, good)
    }
  })
})

/** Every file of the small workspace with its text. */
function snapshot() {
  const names = readdirSync(workspace, { recursive: true, encoding: 'utf8' }).filter(
    (name) => !name.includes('node_modules'),
  )
  return names.sort().map((name) => {
    const path = join(workspace, name)
    return [name, statSync(path).isFile() ? readFileSync(path, 'utf8') : 'folder']
  })
}

function generate(...args: string[]) {
  const script = [join(here, 'run.mjs'), '--root', workspace, '--no-install', ...args]
  return spawnSync(process.execPath, script, { encoding: 'utf8', input: '' })
}

/** Not synchronously: vitest takes a worker that is silent for a minute for dead. */
function node(script: string, args: string[]): Promise<{ exitCode: number; stdout: string; stderr: string }> {
  const env = { ...process.env, NO_COLOR: '1' }
  return new Promise((done) => {
    const whole = [join(root, 'node_modules', script), ...args]
    execFile(process.execPath, whole, { cwd: workspace, env }, (error, stdout, stderr) =>
      done({ exitCode: error ? 1 : 0, stdout, stderr }),
    )
  })
}

function link(name: string, target: string) {
  const path = join(workspace, 'node_modules', name)
  mkdirSync(dirname(path), { recursive: true })
  symlinkSync(target, path, 'junction')
}

function write(path: string, text: string) {
  const file = join(workspace, path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
}
