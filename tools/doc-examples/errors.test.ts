/** The guide lists every code that a library throws, and no other. */
import { readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { expect, it } from 'vitest'
import { filesUnder, packageFolders, root } from '../setup/workspace.mjs'

const CODE = /'([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)'/g
/** Where a code is written: given to the base class, or one of those that a class of the engine may have. */
const PLACES = [
  /(?:super|new KvloomError)\(\s*'[A-Z_0-9]+'/g,
  /extends EngineError<[^>]+>/g,
  /type \w+ErrorCode =[^=]*?(?=\n\n)/g,
]

/** Methods are packages in a folder of their kind; their own codes begin with their names. */
const isMethod = (folder: string) => /^packages\/[^/]+\/[^/]+$/.test(relative(root, folder).replaceAll('\\', '/'))

it('lists every code', () => {
  const sources = packageFolders()
    .filter((folder) => relative(root, folder).startsWith('packages') && !isMethod(folder))
    .flatMap((folder) => filesUnder(join(folder, 'src')))
    .filter((file) => file.endsWith('.ts') && !/\.test\.ts$|\.generated\.ts$|testing/.test(file))
  const thrown = new Set<string>()
  for (const file of sources) {
    const text = readFileSync(file, 'utf8').replaceAll('\r', '')
    for (const place of PLACES)
      for (const [found] of text.matchAll(place)) for (const [, code = ''] of found.matchAll(CODE)) thrown.add(code)
  }
  expect(thrown.size).toBeGreaterThan(60)
  const page = readFileSync(join(root, 'docs', 'guide', 'errors.md'), 'utf8')
  const tables = page.split('\n').filter((line) => line.startsWith('| `'))
  const listed = new Set(
    tables.flatMap((line) => [...(line.split('|')[1] ?? '').matchAll(/`([A-Z0-9_]+)`/g)].map(([, code = '']) => code)),
  )
  expect([...listed].sort()).toEqual([...thrown].sort())
})
