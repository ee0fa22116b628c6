/** Every configuration of the documentation is loaded as `kvloom compare` loads it, with the files that its document shows. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { chooseCompositions } from '../../packages/cli/src/commands/compositions'
import { readDocuments } from './markdown.mjs'

const CONFIGURATION = /^[\w-]+\.config\.(?:ts|js|json)$/
const FILE = /^[\w./@-]+\.(?:ts|js|json)$/

const documents = readDocuments().filter(({ blocks }) => blocks.some(({ name }) => CONFIGURATION.test(name)))
const configurations = documents.flatMap(({ blocks }) => blocks.filter(({ name }) => CONFIGURATION.test(name)))

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvloom-configurations-'))
  vi.spyOn(process.stderr, 'write').mockImplementation(() => true)
})
afterAll(() => {
  vi.restoreAllMocks()
  rmSync(folder, { recursive: true })
})

const kvloom = () => import('../../packages/kvloom/src/index')

it('finds them', () => {
  expect(configurations.map(({ name }) => name)).toEqual(
    expect.arrayContaining(['kvloom.config.json', 'rows.config.ts']),
  )
})

describe('loads', () => {
  it.each(configurations.map((block) => [`${block.file}:${block.line}`, block] as const))(
    '%s',
    async (where, block) => {
      const place = join(folder, where.replaceAll(/[/:]/g, '+'))
      const files =
        documents.find(({ file }) => file === block.file)?.blocks.filter(({ name }) => FILE.test(name)) ?? []
      for (const { name, code } of [...files, block]) {
        mkdirSync(dirname(join(place, name)), { recursive: true })
        writeFileSync(join(place, name), code)
      }
      const rows = await chooseCompositions({ compressor: [], config: join(place, block.name), modules: { kvloom } })
      expect(rows.length).toBeGreaterThan(1)
      for (const { compressor } of rows) expect(compressor.stages).toBeInstanceOf(Array)
    },
  )
})
