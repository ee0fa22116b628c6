/**
 * Every TypeScript block of the documentation compiles as it stands, and runs. A block that is called `continued` goes on with the
 * program before it, and a `text` block that is called `output` is what the program prints.
 */
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { format } from 'node:util'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { packageFolders, root } from '../setup/workspace.mjs'
import { readDocuments } from './markdown.mjs'
import { type Program, programsOf } from './programs.mjs'

const blocks = readDocuments().flatMap((document) => programsOf(document.blocks))
const where = ({ file, line }: Program) => `${file}:${line}`
/** The compiler reads every package from its sources, which takes minutes where other programs keep the processor busy. */
const COMPILE_MS = 600_000
const isTest = ({ name }: Program) => name.endsWith('.test.ts')

let folder: string
const flat = (path: string) => path.replaceAll(/[/:]/g, '+')
/** The file of a block. Blocks with names lie in the folder of their document, and may import each other; others beside it. */
const pathOf = (block: Program) => join(folder, flat(block.file), block.name || `line-${block.line}.ts`)

// A folder where every package can be imported by its name, as after `npm install`. It lies in the workspace, so that npm's
// packages are found by walking up.
beforeAll(() => {
  mkdirSync(join(root, '.turbo'), { recursive: true })
  folder = mkdtempSync(join(root, '.turbo', 'doc-examples-'))
  for (const path of packageFolders()) {
    const manifest = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8')) as { name: string; private?: boolean }
    if (!manifest.private) link(`node_modules/${manifest.name}`, path)
  }
  const tensorflow = join(root, 'packages', 'core', 'node_modules', '@tensorflow', 'tfjs-core')
  link('node_modules/@tensorflow/tfjs-core', tensorflow)
  // Commands and paths of the documentation are seen from the root.
  link('packages', join(root, 'packages'))
  for (const block of blocks) write(pathOf(block), block.code)
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

it('finds the blocks', () => {
  expect(new Set(blocks.map(({ file }) => file))).toContain('packages/quantizers/kivi/README.md')
  expect(blocks.length).toBeGreaterThan(25)
  // Files of one document lie together.
  expect(new Set(blocks.map(pathOf)).size).toBe(blocks.length)
})

it('has an example in the README of every method', () => {
  const methods = packageFolders().map((path) => path.slice(root.length + 1).replaceAll('\\', '/'))
  const lacking = methods
    .filter((path) => /^packages\/[^/]+\/[^/]+$/.test(path))
    .filter((path) => !blocks.some(({ file }) => file === `${path}/README.md`))
  expect(lacking).toEqual([])
})

it('compiles all of them', { timeout: COMPILE_MS }, async () => {
  const compilerOptions = {
    noEmit: true,
    customConditions: ['kvloom-source'],
    typeRoots: [join(root, 'node_modules', '@types')],
  }
  const files = blocks.map(pathOf)
  write(
    join(folder, 'tsconfig.json'),
    JSON.stringify({ extends: join(root, 'tsconfig.base.json'), compilerOptions, files }),
  )
  const { output } = await node('typescript/bin/tsc', ['-p', folder, '--pretty', 'false'])
  // What is wrong in the packages themselves is not this test's business.
  const problems = [...output.matchAll(/^(.+)\((\d+),\d+\): (error .*)$/gm)].flatMap(([, path = '', line, problem]) => {
    const block = blocks.find((each) => resolve(folder, path) === pathOf(each) || resolve(path) === pathOf(each))
    return block ? [`${block.file}:${block.line + Number(line) - 1}: ${problem}`] : []
  })
  expect(problems).toEqual([])
  // An error without a place, such as a wrong option, would hide all others.
  expect(output).not.toMatch(/^error /m)
})

describe('runs', () => {
  const before = process.cwd()
  const printed: string[] = []
  beforeAll(() => {
    vi.spyOn(console, 'log').mockImplementation((...what) => {
      printed.push(format(...what))
    })
    vi.spyOn(process.stdout, 'write').mockImplementation(() => true)
    process.chdir(folder)
  })
  afterAll(() => {
    process.chdir(before)
    vi.restoreAllMocks()
  })

  const programs = blocks.filter((block) => !isTest(block))
  it.each(programs.map((block) => [where(block), block] as const))('%s', async (_, block) => {
    printed.length = 0
    const module = (await import(/* @vite-ignore */ pathOf(block))) as { default?: unknown }
    if (block.output !== null) expect(`${printed.join('\n')}\n`).toBe(block.output)
    if (block.name.endsWith('.config.ts')) expect(module.default).toBeTypeOf('object')
  })

  const tests = blocks.filter(isTest)
  it.each(tests.map((block) => [where(block), block] as const))('%s, a test', async (_, block) => {
    write(
      join(folder, 'vitest.config.mjs'),
      `export default {
        resolve: { conditions: ['kvloom-source'] },
        ssr: { resolve: { conditions: ['kvloom-source'], externalConditions: ['node', 'import'] } },
        test: { include: ['**/*.test.ts'], testTimeout: 120_000 },
      }`,
    )
    const { exitCode, output } = await node('vitest/vitest.mjs', ['run', '--root', folder, pathOf(block)])
    expect(exitCode, output).toBe(0)
  })
})

/** Not synchronously: vitest takes a worker that is silent for a minute for dead. */
function node(script: string, args: readonly string[]): Promise<{ exitCode: number; output: string }> {
  return new Promise((done) => {
    execFile(process.execPath, [join(root, 'node_modules', script), ...args], { cwd: root }, (error, stdout, stderr) =>
      done({ exitCode: error ? 1 : 0, output: stdout + stderr }),
    )
  })
}

function link(name: string, target: string) {
  const path = join(folder, name)
  mkdirSync(dirname(path), { recursive: true })
  symlinkSync(target, path, 'junction')
}

function write(path: string, text: string) {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
}
