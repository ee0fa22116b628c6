// Reads the method packages: every exported factory with a `card` and `options` is a method.
import { existsSync, readFileSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import { pathToFileURL } from 'node:url'
import { packageFolders, root } from '../setup/workspace.mjs'

/**
 * @typedef {object} Method
 * @property {string} category folder under packages/
 * @property {string} folder of the package, from the root, with slashes
 * @property {string} packageName
 * @property {string} exportName
 * @property {{ name: string, title: string, summary: string, paper?: { title: string, link: string } }} card
 * @property {Record<string, { default: unknown, doc: string, allowed: string }>} options
 * @property {readonly { kind: string, when: unknown, on?: { part?: string } }[]} stages with default options
 */

/** @returns {Promise<Method[]>} sorted by category and name */
export async function readMethods() {
  const methods = []
  for (const absolute of packageFolders()) {
    const folder = relative(root, absolute).split(sep).join('/')
    const [top, category, name] = folder.split('/')
    if (top !== 'packages' || !name) continue
    const entry = join(absolute, 'dist', 'index.js')
    if (!existsSync(entry)) throw new Error(`${folder} is not built. Run \`npm run build\`.`)
    const { name: packageName } = JSON.parse(readFileSync(join(absolute, 'package.json'), 'utf8'))
    const exported = await import(pathToFileURL(entry).href)
    for (const [exportName, value] of Object.entries(exported)) {
      if (typeof value !== 'function' || !value.card || !value.options) continue
      methods.push({
        category,
        folder,
        packageName,
        exportName,
        card: value.card,
        options: value.options,
        stages: value().stages,
      })
    }
  }
  const key = ({ category, card }) => `${category}/${card.name}`
  return methods.sort((a, b) => (key(a) < key(b) ? -1 : 1))
}
