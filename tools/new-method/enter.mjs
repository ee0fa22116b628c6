// Enters a new method where methods are listed: the lists made from the folders, and the next changelog.
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { methodLists } from '../method-lists/lists.mjs'
import { SetupError } from '../setup/child.mjs'

/** @param {import('./change.mjs').Change} change receives the note; nothing is written yet */
export function addChangeset(change, root, method) {
  change.write(join(root, '.changeset', `new-${method.name}.md`), changesetOf(method))
}

/**
 * Makes the lists of methods again, once the folder of the method is there.
 *
 * @param {import('./change.mjs').Change} change remembers what stood there
 * @throws SetupError when the workspace has no package that lists methods
 */
export function makeLists(change, root) {
  const manifest = join(root, 'packages', 'methods', 'package.json')
  if (!existsSync(manifest)) throw new SetupError(`${manifest} is missing; methods are listed there. ${UNDONE}`)
  for (const [path, text] of Object.entries(listsOf(root))) {
    change.keep(join(root, path))
    writeFileSync(join(root, path), text)
  }
}

const UNDONE = 'Nothing was written.'

function listsOf(root) {
  try {
    return methodLists(root)
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    throw new SetupError(`${error.message} ${UNDONE}`)
  }
}

const changesetOf = ({ name, title }) =>
  `---\n'@kvloom/${name}': minor\n'@kvloom/methods': minor\n---\n\nNew method: ${title}.\n`
