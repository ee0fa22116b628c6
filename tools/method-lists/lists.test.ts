import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { root } from '../setup/workspace.mjs'
import { methodLists, staleLists } from './lists.mjs'

it('are in this workspace as the folders say', () => {
  expect(staleLists(root)).toEqual([])
})

describe('the lists of a workspace', () => {
  let workspace: string
  const write = (path: string, text: string) => {
    mkdirSync(dirname(join(workspace, path)), { recursive: true })
    writeFileSync(join(workspace, path), text)
  }
  const writeLists = () => {
    for (const [path, text] of Object.entries(methodLists(workspace))) write(path, text)
  }
  beforeEach(() => {
    workspace = mkdtempSync(join(tmpdir(), 'kvloom-lists-'))
    write('pnpm-workspace.yaml', 'packages:\n  - packages/*\n  - packages/recall/*\n  - packages/eviction/*\n')
    write('packages/core/package.json', '{ "name": "@kvloom/core" }')
    write('packages/methods/package.json', '{\n  "dependencies": {\n    "@kvloom/core": "workspace:^"\n  }\n}\n')
    for (const folder of ['eviction/two-words', 'eviction/a', 'recall/z'])
      write(`packages/${folder}/package.json`, `{ "name": "@kvloom/${folder.split('/')[1]}" }`)
  })
  afterEach(() => rmSync(workspace, { recursive: true, force: true }))

  it('go by family as the workspace names them, then by name', () => {
    const list = methodLists(workspace)['packages/methods/src/generated/methods.ts']
    expect(list).toContain('readonly Method[] = [\n  z,\n  a,\n  twoWords,\n]')
    expect(list).toMatch(/^\/\/ Made from .* Do not edit\.\n/)
  })

  it('are stale when a folder came or went', () => {
    const all = Object.keys(methodLists(workspace))
    writeLists()
    expect(staleLists(workspace)).toEqual([])
    write('packages/eviction/b/package.json', '{ "name": "@kvloom/b" }')
    write('packages/eviction/b/golden/adapter.ts', '')
    expect(staleLists(workspace)).toEqual(all)
    writeLists()
    rmSync(join(workspace, 'packages/eviction/b'), { recursive: true })
    expect(staleLists(workspace)).toEqual(all)
    writeLists()
    const manifest = methodLists(workspace)['packages/methods/package.json'] ?? ''
    const names = Object.keys((JSON.parse(manifest) as { dependencies: Record<string, string> }).dependencies)
    expect(names).toEqual(['@kvloom/a', '@kvloom/core', '@kvloom/two-words', '@kvloom/z'])
  })

  it('need a workspace with families', () => {
    write('pnpm-workspace.yaml', 'packages:\n  - packages/*\n')
    expect(() => methodLists(workspace)).toThrow('names no folders of methods')
  })
})
