// Runs every command that the documentation names, in a fresh clone with nothing set up: `node tools/doc-examples/run.mjs [PART…]`.
// With PARTs only commands that contain one of them run; the clone and what it needs are made all the same.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { root } from '../setup/workspace.mjs'
import { freshClone } from './clone.mjs'
import { entriesOf, isInstall, unmatched } from './commands.mjs'
import { commandsOfDocuments } from './found.mjs'
import { installPacked } from './install.mjs'
import { readDocuments } from './markdown.mjs'
import { shell } from './shell.mjs'

const documents = readDocuments()
const found = commandsOfDocuments(documents)
const parts = process.argv.slice(2)
const isWanted = (command) => parts.length === 0 || parts.some((part) => command.includes(part))
// What is not stale is taken from the builds of this folder; the rest is built.
const env = { TURBO_CACHE_DIR: join(root, '.turbo', 'cache') }

const failures = unmatched(found)
const scratch = mkdtempSync(join(tmpdir(), 'kvloom-commands-'))
let ran = 0
try {
  const clone = await freshClone(scratch)
  const wanted = entriesOf(found).filter(({ says, runs, not }) => !not && isWanted(`${says} ${runs}`))
  const installs = [...found.keys()].filter(isInstall)
  let consumer
  for (const entry of wanted) {
    if (!entry.installed) {
      await check(entry, clone)
      continue
    }
    if (consumer === undefined) consumer = await installed(clone, installs)
    if (consumer)
      await check(entry, consumer, { PATH: [join(consumer, 'node_modules', '.bin'), process.env.PATH].join(delimiter) })
  }
  if (consumer === undefined && installs.some(isWanted)) await installed(clone, installs)
} finally {
  rmSync(scratch, { recursive: true, force: true })
}

for (const failure of failures) process.stdout.write(`\n${failure}\n`)
process.stdout.write(`${ran} commands run, ${found.size} named, ${failures.length} failures\n`)
process.exitCode = failures.length === 0 ? 0 : 1

/** The folder where the packed packages were installed; `null` when that failed. */
async function installed(clone, installs) {
  const { consumer, problems } = await installPacked({ clone, scratch, installs, env })
  failures.push(...problems)
  ran += installs.length
  return problems.length === 0 ? consumer : null
}

async function check({ says, runs = says, shows, makes, needs = [], exits }, folder, more = {}) {
  for (const name of needs) writeFileSync(join(folder, name), shownFile(name))
  const { exitCode, output, seconds } = await shell(runs, { cwd: folder, env: { ...env, ...more } })
  for (const name of needs) rmSync(join(folder, name))
  ran += 1
  const problem =
    exits !== 'either' && (exitCode === 0) === (exits === 'nonzero')
      ? `exit code ${exitCode}`
      : shows && !shows.test(output)
        ? `does not show ${shows}`
        : makes && !existsSync(join(folder, makes))
          ? `does not make ${makes}`
          : undefined
  process.stdout.write(`${problem ? 'FAILED' : 'ok    '} ${seconds.toFixed(1).padStart(6)} s  ${runs}\n`)
  if (problem) failures.push(`\`${runs}\`: ${problem}\n${output}`)
}

/** The text of a block that carries a file name. */
function shownFile(name) {
  const block = documents.flatMap(({ blocks }) => blocks).find((each) => each.name === name)
  if (!block) throw new Error(`no document shows a file ${name}`)
  return block.code
}
