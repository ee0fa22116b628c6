// Makes a method package of the standard shape and enters it where methods are listed.
//
//   npm run new-method -- --kind eviction --name my-method [--title "My method"]
//
// Without arguments it asks. `--root FOLDER` writes into another workspace, `--no-install` leaves the lockfile alone.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { parseArgs } from 'node:util'
import { runNode, runNpx } from '../setup/child.mjs'
import { root as ownRoot, pinnedPnpm, toolScript } from '../setup/workspace.mjs'
import { filesOf, KINDS } from './templates.mjs'

const NAME = /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/

const { values } = parseArgs({
  options: {
    kind: { type: 'string' },
    name: { type: 'string' },
    title: { type: 'string' },
    root: { type: 'string' },
    'no-install': { type: 'boolean', default: false },
  },
})
const root = values.root ? resolve(values.root) : ownRoot

const problem = await main()
if (problem) {
  process.stderr.write(`new-method: ${problem}\n`)
  process.exitCode = 1
}

/** Resolves to what is wrong, or to nothing. */
async function main() {
  const kind = values.kind ?? (await ask(`Kind (${KINDS.join(', ')}): `))
  if (!KINDS.includes(kind)) return `--kind is '${kind}'; one of: ${KINDS.join(', ')}.`
  const name = values.name ?? (await ask('Name (kebab-case): '))
  if (!NAME.test(name)) return `--name is '${name}'; it must be kebab-case and begin with a letter, like 'my-method'.`
  const folder = join(root, 'packages', kind, name)
  const taken = folderOfPackage(`@kvloom/${name}`) ?? (existsSync(folder) ? folder : undefined)
  if (taken) return `there is already a package @kvloom/${name} (${taken}). Choose another name.`

  const method = describe(kind, name, values.title)
  for (const [path, text] of Object.entries(filesOf(method))) write(join(folder, path), text)
  write(join(root, '.changeset', `new-${name}.md`), changesetOf(method))
  for (const user of ['cli', 'kvloom']) addDependency(user, `@kvloom/${name}`)
  addExport(method)
  addToRegistry(method)
  const formatter = toolScript('@biomejs/biome', 'biome')
  await runNode(
    formatter,
    ['check', '--write', folder, join('packages', 'kvloom', 'src'), join('packages', 'cli', 'src', 'registry.ts')],
    {
      cwd: root,
      capture: () => undefined,
      quiet: true,
    },
  )
  process.stdout.write(`packages/${kind}/${name} is made, and entered in @kvloom/cli and kvloom.\n`)

  if (!values['no-install']) {
    const exitCode = await runNpx([pinnedPnpm(), 'install', '--no-frozen-lockfile'])
    if (exitCode !== 0) return `the package is made, but pnpm install failed (exit code ${exitCode}).`
  }
  process.stdout.write(
    `Next: write the algorithm in src/${name}.ts, its tests, its README; then \`npm run docs:tables\`.\n`,
  )
  return undefined
}

async function ask(question) {
  if (!process.stdin.isTTY) return ''
  const terminal = createInterface({ input: process.stdin, output: process.stdout })
  try {
    return (await terminal.question(question)).trim()
  } finally {
    terminal.close()
  }
}

function describe(kind, name, title) {
  const words = name.split('-')
  const capital = (word) => word[0].toUpperCase() + word.slice(1)
  const pascal = words.map(capital).join('')
  return {
    kind,
    name,
    pascal,
    camel: pascal[0].toLowerCase() + pascal.slice(1),
    title: title ?? capital(words.join(' ')),
  }
}

function folderOfPackage(packageName) {
  const packages = join(root, 'packages')
  const candidates = existsSync(packages) ? readdirSync(packages).map((name) => join(packages, name)) : []
  const nested = KINDS.map((kind) => join(packages, kind)).filter((path) => existsSync(path))
  candidates.push(...nested.flatMap((path) => readdirSync(path).map((name) => join(path, name))))
  return candidates.find((folder) => {
    const manifest = join(folder, 'package.json')
    return existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).name === packageName
  })
}

function addDependency(user, packageName) {
  const path = join(root, 'packages', user, 'package.json')
  const manifest = JSON.parse(readFileSync(path, 'utf8'))
  const dependencies = { ...manifest.dependencies, [packageName]: 'workspace:^' }
  manifest.dependencies = Object.fromEntries(Object.entries(dependencies).sort(([a], [b]) => (a < b ? -1 : 1)))
  write(path, `${JSON.stringify(manifest, null, 2)}\n`)
}

/** `kvloom` re-exports every method by name; a line that only keeps an empty file a module goes. */
function addExport({ camel, name }) {
  const path = join(root, 'packages', 'kvloom', 'src', 'index.ts')
  const text = existsSync(path) ? readFileSync(path, 'utf8').replace(/^export \{\}\n/m, '') : ''
  write(path, `${text}export { ${camel} } from '@kvloom/${name}'\n`)
}

/** The command line names its methods in one list. */
function addToRegistry({ camel, name }) {
  const path = join(root, 'packages', 'cli', 'src', 'registry.ts')
  if (!existsSync(path)) return
  const text = readFileSync(path, 'utf8')
  const list = /(export const methods: readonly Method\[\] = \[[^\]]*?)(,?\s*)\]/
  if (!list.test(text)) throw new Error(`${path} has no list of methods to enter ${name} in`)
  const listed = text.replace(list, (_, begin, end) => `${begin}, ${camel}${end.replace(',', '')}]`)
  write(path, listed.replace(/^import /m, `import { ${camel} } from '@kvloom/${name}'\nimport `))
}

function changesetOf({ name, title }) {
  return `---\n'@kvloom/${name}': minor\n'@kvloom/cli': minor\n'kvloom': minor\n---\n\nNew method: ${title}.\n`
}

function write(path, text) {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
}
