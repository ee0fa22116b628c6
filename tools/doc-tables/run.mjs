// Writes tables from the built method packages between markers: of all methods into README.md and docs/methods.md, of its options
// into the README of every method. `--check` changes nothing and fails when a table is stale.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../setup/workspace.mjs'
import { readMethods } from './methods.mjs'
import { methodSections, methodTable, optionTable } from './tables.mjs'

const check = process.argv.includes('--check')
const methods = await readMethods()
const stale = [
  update('README.md', 'methods', `\n${methodTable(methods)}\n`),
  update('docs/methods.md', 'methods', `\n${methodSections(methods)}\n`),
  ...methods.map((method) => update(`${method.folder}/README.md`, 'options', `${optionTable(method)}\n`)),
].filter(Boolean)

if (check && stale.length > 0) {
  process.stderr.write(`${stale.join(', ')}: stale tables. Run \`npm run docs:tables\`.\n`)
  process.exitCode = 1
} else {
  process.stdout.write(
    `${methods.length} methods, ${stale.length === 0 ? 'tables are fresh' : `written to ${stale.join(', ')}`}\n`,
  )
}

/** Puts `block` between the markers of a table; returns the file's name when it was another one. */
function update(name, what, block) {
  const [begin, end] = [`<!-- ${what}: made by \`npm run docs:tables\`, do not edit -->\n`, `<!-- ${what}: end -->\n`]
  const path = join(root, name)
  const text = readFileSync(path, 'utf8')
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`${name} lacks the lines\n${begin}${end}`)
  const fresh = text.slice(0, from) + begin + block + text.slice(to)
  if (fresh === text) return undefined
  if (!check) writeFileSync(path, fresh)
  return name
}
