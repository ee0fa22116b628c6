// Writes the tables of methods from the built method packages into README.md and docs/methods.md, between markers.
// `--check` changes nothing and fails when a table is stale.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../setup/workspace.mjs'
import { readMethods } from './methods.mjs'
import { methodSections, methodTable } from './tables.mjs'

const BEGIN = '<!-- methods: made by `npm run docs:tables`, do not edit -->'
const END = '<!-- methods: end -->'

const check = process.argv.includes('--check')
const methods = await readMethods()
const stale = [update('README.md', methodTable(methods)), update('docs/methods.md', methodSections(methods))].filter(
  Boolean,
)

if (check && stale.length > 0) {
  process.stderr.write(`${stale.join(' and ')}: stale tables of methods. Run \`npm run docs:tables\`.\n`)
  process.exitCode = 1
} else {
  process.stdout.write(
    `${methods.length} methods, ${stale.length === 0 ? 'tables are fresh' : `written to ${stale.join(' and ')}`}\n`,
  )
}

/** Returns the file's name when its block differs from `block`. */
function update(name, block) {
  const path = join(root, name)
  const text = readFileSync(path, 'utf8')
  const begin = text.indexOf(BEGIN)
  const end = text.indexOf(END)
  if (begin < 0 || end < begin) throw new Error(`${name} lacks the lines\n${BEGIN}\n${END}`)
  const fresh = `${text.slice(0, begin)}${BEGIN}\n\n${block}\n${text.slice(end)}`
  if (fresh === text) return undefined
  if (!check) writeFileSync(path, fresh)
  return name
}
