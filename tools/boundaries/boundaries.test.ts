import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'

const check = join(dirname(fileURLToPath(import.meta.url)), 'check.mjs')
let tree: string

const LEGAL = [
  ['kernels', 'errors'],
  ['math', 'errors'],
  ['core', 'kernels'],
  ['eviction/first', 'core'],
  ['eviction/first', 'math'],
  ['engine', 'core'],
  ['engine', 'kernels'],
  ['training', 'engine'],
  ['eval', 'engine'],
  ['eval', 'training'],
  ['conformance', 'core'],
  ['cli', 'eviction/first'],
  ['kvloom', 'quantizers/third'],
  ['kvloom', 'methods', 'golden'],
  ['cli', 'methods'],
  ['methods', 'core'],
  ['methods', 'golden'],
  ['golden', 'core'],
  ['conformance', 'golden'],
  ['methods', 'quantizers/third'],
  ['recipes/mix', 'quantizers/third'],
] as const

const ILLEGAL = [
  ['errors', 'kernels', 'errors-knows-only-itself'],
  ['kernels', 'core', 'kernels-knows-only-errors'],
  ['core', 'engine', 'core-knows-only-errors-kernels-math'],
  ['core', 'eviction/first', 'core-knows-only-errors-kernels-math'],
  ['engine', 'eviction/first', 'engine-knows-only-'],
  ['training', 'eval', 'training-knows-only-'],
  ['training', 'quantizers/third', 'training-knows-only-'],
  ['engine', 'training', 'engine-knows-only-'],
  ['eval', 'quantizers/third', 'eval-knows-only-'],
  ['conformance', 'engine', 'conformance-knows-only-'],
  ['eviction/first', 'eviction/second', 'method-knows-core-kernels-math'],
  ['eviction/first', 'quantizers/third', 'method-knows-core-kernels-math'],
  ['eviction/first', 'engine', 'method-knows-core-kernels-math'],
  ['eviction/first', 'conformance', 'method-knows-core-kernels-math'],
  ['recipes/mix', 'engine', 'recipe-knows-methods'],
  ['golden', 'eviction/first', 'golden-knows-only-'],
  ['golden', 'conformance', 'golden-knows-only-'],
  ['eviction/first', 'golden', 'source-of-method-does-not-know-golden'],
  ['recipes/mix', 'golden', 'source-of-method-does-not-know-golden'],
  ['methods', 'engine', 'list-of-methods-knows-methods'],
  ['methods', 'cli', 'list-of-methods-knows-methods'],
  ['engine', 'methods', 'engine-knows-only-'],
  ['eviction/first', 'methods', 'method-knows-core-kernels-math'],
  ['kvloom', 'cli', 'kvloom-does-not-know-the-command-line'],
] as const

beforeEach(() => {
  tree = realpathSync(mkdtempSync(join(tmpdir(), 'kvloom-boundaries-')))
  const libraries = [
    'errors',
    'kernels',
    'math',
    'core',
    'engine',
    'training',
    'eval',
    'conformance',
    'cli',
    'kvloom',
    'methods',
    'golden',
  ]
  for (const folder of libraries) addPackage(folder)
  for (const folder of ['eviction/first', 'eviction/second', 'quantizers/third', 'recipes/mix']) addPackage(folder)
})
afterEach(() => rmSync(tree, { recursive: true, force: true }))

describe('the rule for the direction of dependencies', () => {
  it('lets every layer import what is below it', () => {
    for (const [from, to] of LEGAL) addImport(from, to)
    write('packages/eviction/first/src/first.test.ts', "import '@kvloom/conformance'\n")
    write('packages/eviction/first/golden/adapter.ts', "import '@kvloom/golden'\nimport '../src/index'\n")
    write('packages/recipes/mix/golden/adapter.ts', "import '@kvloom/golden'\nimport '@kvloom/third'\n")
    expect(run()).toMatchObject({ exitCode: 0 })
  })

  it('refuses every import upwards or sideways, and names the rule', () => {
    for (const [from, to] of ILLEGAL) addImport(from, to)
    const { exitCode, output } = run()
    expect(exitCode).toBe(1)
    for (const [from, to, rule] of ILLEGAL) {
      const line = new RegExp(`${rule}[^\\n]*: ${fileOf(from, to)} → packages/${to}/src/index.ts`)
      expect(output, `${from} imports ${to}`).toMatch(line)
    }
  })

  it('refuses an adapter that knows another method, and a source that knows its adapter', () => {
    write('packages/eviction/first/golden/adapter.ts', "import '@kvloom/second'\nexport const adapter = 1\n")
    write('packages/eviction/second/golden/adapter.ts', 'export const adapter = 1\n')
    write('packages/eviction/second/src/knows.ts', "import '../golden/adapter'\n")
    const { output } = run()
    expect(output).toMatch(/adapter-of-method-knows-also-golden.*first\/golden\/adapter\.ts/)
    expect(output).toMatch(/source-of-method-does-not-know-golden.*second\/src\/knows\.ts/)
  })

  it('also sees imports of types only', () => {
    write('packages/core/src/types.ts', "export type { name } from '@kvloom/engine'\n")
    expect(run().output).toContain('core-knows-only-errors-kernels-math')
  })

  it('refuses circles in every package, also of types only', () => {
    for (const folder of ['core', 'engine', 'eval', 'conformance']) {
      write(`packages/${folder}/src/a.ts`, "export type { B } from './b'\nexport type A = 1\n")
      write(`packages/${folder}/src/b.ts`, "export type { A } from './a'\nexport type B = 2\n")
    }
    write('packages/engine/src/c.ts', "export { d } from './d'\nexport const c = 1\n")
    write('packages/engine/src/d.ts', "export { c } from './c'\nexport const d = 1\n")
    const { output } = run()
    for (const folder of ['core', 'engine', 'eval', 'conformance'])
      expect(output).toMatch(new RegExp(`no-circles: packages/${folder}/src/[ab].ts`))
    expect(output).toMatch(/no-circles: packages\/engine\/src\/[cd].ts/)
  })

  it('refuses a path into the folder of another package, and an import that leads nowhere', () => {
    write('packages/core/src/path.ts', "export { name } from '../../kernels/src/index'\n")
    write('packages/core/src/nowhere.ts', "export { name } from '@kvloom/nowhere'\n")
    const { output } = run()
    expect(output).toContain('package-by-name-not-by-path')
    expect(output).toContain('resolvable')
  })
})

const fileOf = (from: string, to: string) => `packages/${from}/src/knows-${to.replace('/', '-')}.ts`
const nameOf = (folder: string) => `@kvloom/${folder.split('/').at(-1)}`

function addPackage(folder: string) {
  const exports = { '.': { 'kvloom-source': './src/index.ts', import: './dist/index.js' } }
  const manifest = JSON.stringify({ name: nameOf(folder), version: '0.0.0', type: 'module', exports })
  write(`packages/${folder}/package.json`, manifest)
  write(`packages/${folder}/src/index.ts`, `export const name = '${folder}'\n`)
  // As in the real tree, a package is reached through a link in node_modules.
  const link = join(tree, 'node_modules', nameOf(folder))
  mkdirSync(dirname(link), { recursive: true })
  symlinkSync(join(tree, 'packages', folder), link, 'junction')
}

function addImport(from: string, to: string) {
  write(fileOf(from, to), `export { name } from '${nameOf(to)}'\n`)
}

function write(path: string, text: string) {
  const file = join(tree, path)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
}

function run(): { exitCode: number; output: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [check, tree], {
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1' },
  })
  return { exitCode: status ?? 1, output: stdout + stderr }
}
