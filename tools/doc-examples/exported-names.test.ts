/** What `kvloom` exports is written down, so that a change is seen; and a name means one thing in all packages. */
import { existsSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import ts from 'typescript'
import { beforeAll, expect, it } from 'vitest'
import { packageFolders, root } from '../setup/workspace.mjs'

/** `kvloom`'s own forms of what `@kvloom/eval` exports: compositions may be texts besides. */
const WIDER = ['compare', 'CompareOptions', 'Compositions']
/** Types that TypeScript or JavaScript has already. */
const TAKEN = [
  'Array',
  'Error',
  'Exclude',
  'Extract',
  'Map',
  'Omit',
  'Partial',
  'Pick',
  'Promise',
  'Range',
  'Readonly',
  'Record',
  'Required',
  'Set',
]

const home = 'packages/kvloom/src/index.ts'
const LIST = 'packages/kvloom/exported-names.txt'
/** Names by entry, each with where it is declared. */
const exported = new Map<string, ReadonlyMap<string, string>>()

beforeAll(() => {
  const entries = packageFolders()
    .map((folder: string) => relative(root, join(folder, 'src', 'index.ts')).replaceAll('\\', '/'))
    .filter((entry: string) => entry.startsWith('packages/') && existsSync(join(root, entry)))
  const program = ts.createProgram(
    entries.map((entry: string) => join(root, entry)),
    {
      module: ts.ModuleKind.ESNext,
      moduleResolution: ts.ModuleResolutionKind.Bundler,
      customConditions: ['kvloom-source'],
      target: ts.ScriptTarget.ES2022,
      noEmit: true,
      skipLibCheck: true,
    },
  )
  const checker = program.getTypeChecker()
  for (const entry of entries) {
    const source = program.getSourceFile(join(root, entry))
    const symbol = source && checker.getSymbolAtLocation(source)
    if (!symbol) continue
    exported.set(
      entry,
      new Map(checker.getExportsOfModule(symbol).map((each) => [each.name, declaredAt(checker, each)])),
    )
  }
})

function declaredAt(checker: ts.TypeChecker, symbol: ts.Symbol): string {
  const own = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol
  const [declaration] = own.declarations ?? []
  return declaration ? `${relative(root, declaration.getSourceFile().fileName)}:${declaration.pos}` : own.name
}

it('finds the packages', () => {
  expect(exported.size).toBeGreaterThan(28)
  expect(exported.get(home)?.size).toBeGreaterThan(100)
})

it('lists what kvloom exports beside the methods', () => {
  const methods = new Set(exported.get('packages/methods/src/index.ts')?.keys())
  const names = [...(exported.get(home)?.keys() ?? [])].filter((name) => !methods.has(name)).sort()
  const listed = readFileSync(join(root, LIST), 'utf8').trim().split(/\r?\n/)
  expect(listed).toEqual(names)
})

it('gives a name one meaning in all packages', () => {
  const meanings = new Map<string, Map<string, string>>()
  for (const [entry, names] of exported)
    for (const [name, place] of names) {
      if (entry === home && WIDER.includes(name)) continue
      meanings.set(name, (meanings.get(name) ?? new Map()).set(place, entry))
    }
  const double = [...meanings]
    .filter(([, places]) => places.size > 1)
    .map(([name, places]) => [name, ...places.values()])
  expect(double).toEqual([])
})

it('exports no two names that differ in capitals alone, unless one is a type', () => {
  const names = [...(exported.get(home)?.keys() ?? [])]
  const values = names.filter((name) => /^[a-z]/.test(name)).map((name) => name.toLowerCase())
  expect(values.filter((name, i) => values.indexOf(name) !== i)).toEqual([])
})

it('hides no type that TypeScript has', () => {
  const hidden = [...exported].flatMap(([entry, names]) =>
    TAKEN.filter((name) => names.has(name)).map((name) => `${entry}: ${name}`),
  )
  expect(hidden).toEqual([])
})
