// Writes tables between markers. From the built method packages: of all methods into README.md and docs/methods.md, of its options
// into the README of every method. From the measurements of apps/bench: the results in README.md, and their plot as a file.
// `--check` changes nothing and fails when one of them is stale.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { root } from '../setup/workspace.mjs'
import { readMethods } from './methods.mjs'
import { readResults, resultBlock } from './results.mjs'
import { resultPlot } from './results-plot.mjs'
import { methodSections, methodTable, optionTable } from './tables.mjs'

const check = process.argv.includes('--check')
const PLOT = 'docs/public/results.svg'
const methods = await readMethods()
const results = readResults()
const stale = [
  update('README.md', 'methods', `\n${methodTable(methods)}\n`),
  update('README.md', 'results', `\n${resultBlock(results, PLOT)}\n\n`),
  write(PLOT, resultPlot(results)),
  update('docs/methods.md', 'methods', `\n${methodSections(methods)}\n`),
  ...methods.map((method) => update(`${method.folder}/README.md`, 'options', `${optionTable(method)}\n`)),
].filter((name, i, names) => name !== undefined && names.indexOf(name) === i)

if (check && stale.length > 0) {
  process.stderr.write(`${stale.join(', ')}: stale tables or plot. Run \`npm run docs:tables\`.\n`)
  process.exitCode = 1
} else {
  process.stdout.write(
    `${methods.length} methods, ${stale.length === 0 ? 'tables are fresh' : `written to ${stale.join(', ')}`}\n`,
  )
}

/** Puts `block` between the markers of a table; returns the file's name when it was another one. */
function update(name, what, block) {
  const [begin, end] = [`<!-- ${what}: made by \`npm run docs:tables\`, do not edit -->\n`, `<!-- ${what}: end -->\n`]
  const text = readFileSync(join(root, name), 'utf8')
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`${name} lacks the lines\n${begin}${end}`)
  return write(name, text.slice(0, from) + begin + block + text.slice(to))
}

/** Makes `text` the file; returns its name when it was another text or missing. */
function write(name, text) {
  const path = join(root, name)
  if (existsSync(path) && readFileSync(path, 'utf8') === text) return undefined
  if (check) return name
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
  return name
}
