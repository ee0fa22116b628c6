/** The page of house words defines the words that core's comments take for granted, and no word that core has given up. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { filesUnder, root } from '../setup/workspace.mjs'

/** What a reader of core stumbled over. */
const WANTED = [
  'sealed lane slot shift side main unit site space sight exempt dead kept room drain ragged',
  'window sinks block zone page view promise step phase artifact ready',
].flatMap((line) => line.split(' '))

const page = readFileSync(join(root, 'docs', 'guide', 'words.md'), 'utf8')
const defined = [...page.matchAll(/^\| (\*\*.+?\*\*) \|/gm)].flatMap(([, cell]) =>
  [...(cell ?? '').matchAll(/\*\*(.+?)\*\*/g)].map(([, word]) => word ?? ''),
)
const core = filesUnder(join(root, 'packages', 'core', 'src'))
  .filter((path: string) => path.endsWith('.ts'))
  .map((path: string) => readFileSync(path, 'utf8').toLowerCase())
  .join('\n')

it('defines what is wanted, once', () => {
  expect(defined).toEqual(expect.arrayContaining(WANTED))
  expect(new Set(defined).size).toBe(defined.length)
})

it.each(defined)('%s is a word of core', (word) => {
  expect(core).toContain(word.toLowerCase().replace(/s$/, ''))
})

it('says each in one sentence', () => {
  const rows = page.split('\n').filter((line) => line.startsWith('| **'))
  for (const row of rows) expect(row.split(' | ')[1], row).toMatch(/^[A-Z].+\.\)?$/)
})
