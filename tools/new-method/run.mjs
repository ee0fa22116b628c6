// Makes a method package of the standard shape and enters it where methods are listed.
//
//   npm run new-method -- --kind eviction --name my-method [--title "My method"]
//
// Without arguments it asks. `--root FOLDER` writes into another workspace, `--no-install` leaves the lockfile alone.
// Everything is checked first; what fails later leaves the workspace as it was.
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { parseArgs } from 'node:util'
import { explain, runNode, runNpx, SetupError } from '../setup/child.mjs'
import { prepare } from '../setup/prepare.mjs'
import { root as ownRoot, pinnedPnpm, toolScript } from '../setup/workspace.mjs'
import { Change } from './change.mjs'
import { addChangeset, makeLists } from './enter.mjs'
import { describe, problemOfName, problemOfTitle } from './name.mjs'
import { filesOf, KINDS } from './templates.mjs'

try {
  await main()
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  process.stderr.write(`new-method: ${error.message}\n`)
  process.exitCode = error.exitCode
}

async function main() {
  const { root, kind, name, title, install } = await wishes()
  const method = describe(kind, name, title)
  const folder = join(root, 'packages', kind, name)
  const change = new Change()
  for (const [path, text] of Object.entries(filesOf(method))) change.write(join(folder, path), text)
  addChangeset(change, root, method)

  if (root === ownRoot) await prepare({ build: false })
  change.keep(join(root, 'pnpm-lock.yaml'))
  await change.apply(async () => {
    makeLists(change, root)
    await step('formatting', (capture) =>
      runNode(toolScript('@biomejs/biome', 'biome'), ['check', '--write', folder], {
        cwd: root,
        capture,
        quiet: true,
      }),
    )
    if (!install) return
    await step('the installation', (capture) =>
      runNpx([pinnedPnpm(), 'install', '--no-frozen-lockfile'], { cwd: root, capture }),
    )
  })
  process.stdout.write(
    `packages/${kind}/${name} is made, and entered in the lists of @kvloom/methods.\n` +
      `Next: write the algorithm in src/${name}.ts, its tests, its README; then \`npm run docs:tables\`.\n`,
  )
}

/** What was asked for, checked. @throws SetupError with what is wrong and what is allowed */
async function wishes() {
  const values = parse()
  const root = values.root ? resolve(values.root) : ownRoot
  const kind = values.kind ?? (await ask(`Kind (${KINDS.join(', ')}): `))
  if (!KINDS.includes(kind)) throw new SetupError(`--kind is '${kind}'; one of: ${KINDS.join(', ')}.`)
  const name = values.name ?? (await ask('Name (kebab-case): '))
  const problem = problemOfName(name, root) ?? problemOfTitle(values.title)
  if (problem) throw new SetupError(problem)
  return { root, kind, name, title: values.title, install: !values['no-install'] }
}

function parse() {
  try {
    return parseArgs({
      options: {
        kind: { type: 'string' },
        name: { type: 'string' },
        title: { type: 'string' },
        root: { type: 'string' },
        'no-install': { type: 'boolean', default: false },
      },
    }).values
  } catch (error) {
    throw new SetupError(`${error.message.split('. ')[0]}. Allowed: --kind, --name, --title, --root, --no-install.`)
  }
}

async function step(what, run) {
  let output = ''
  const exitCode = await run((tail) => {
    output = tail
  })
  if (exitCode !== 0) throw new SetupError(`${explain(what, exitCode, output)} Nothing was written.`, exitCode)
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
