// Enters a new method where methods are listed: the command line, kvloom, and the next changelog.
import { join } from 'node:path'
import { SetupError } from '../setup/child.mjs'

/** @param {import('./change.mjs').Change} change receives the files; nothing is written yet */
export function enter(change, root, method) {
  change.write(join(root, '.changeset', `new-${method.name}.md`), changesetOf(method))
  for (const user of ['cli', 'kvloom']) addDependency(change, join(root, 'packages', user, 'package.json'), method)
  addExport(change, join(root, 'packages', 'kvloom', 'src', 'index.ts'), method)
  addToRegistry(change, join(root, 'packages', 'cli', 'src', 'registry.ts'), method)
}

function addDependency(change, path, { name }) {
  const manifest = JSON.parse(existing(change, path))
  const dependencies = { ...manifest.dependencies, [`@kvloom/${name}`]: 'workspace:^' }
  manifest.dependencies = Object.fromEntries(Object.entries(dependencies).sort(([a], [b]) => (a < b ? -1 : 1)))
  change.write(path, `${JSON.stringify(manifest, null, 2)}\n`)
}

/** `kvloom` re-exports every method by name; a line that only keeps an empty file a module goes. */
function addExport(change, path, { camel, name }) {
  const text = change.exists(path) ? change.read(path).replace(/^export \{\}\n/m, '') : ''
  change.write(path, `${text}export { ${camel} } from '@kvloom/${name}'\n`)
}

/** The command line names its methods in one list. */
function addToRegistry(change, path, { camel, name }) {
  const text = existing(change, path)
  const list = /(export const methods: readonly Method\[\] = \[[^\]]*?)(,?\s*)\]/
  if (!list.test(text)) {
    throw new SetupError(
      `${path} has no list of methods to enter ${name} in ('export const methods'). Nothing was written.`,
    )
  }
  const listed = text.replace(list, (_, begin, end) => `${begin}, ${camel}${end.replace(',', '')}]`)
  change.write(path, listed.replace(/^import /m, `import { ${camel} } from '@kvloom/${name}'\nimport `))
}

function existing(change, path) {
  if (change.exists(path)) return change.read(path)
  throw new SetupError(`${path} is missing; methods are entered there. Nothing was written.`)
}

const changesetOf = ({ name, title }) =>
  `---\n'@kvloom/${name}': minor\n'@kvloom/cli': minor\n'kvloom': minor\n---\n\nNew method: ${title}.\n`
