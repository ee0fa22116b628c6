// The folders that hold methods: `packages/FAMILY/NAME`, families in the order of pnpm-workspace.yaml.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { SetupError } from '../setup/child.mjs'

/**
 * @typedef {object} MethodFolder
 * @property {string} family folder under packages/
 * @property {string} name folder under that
 * @property {string} packageName
 * @property {boolean} golden whether it has an adapter for golden data
 * @property {string} factory name of the export that makes the compressor: the folder's name in camel case
 */

/** @returns {string[]} names of the folders under packages/ that hold method packages. @throws SetupError when there are none */
export function familiesOf(root) {
  const text = readFileSync(join(root, 'pnpm-workspace.yaml'), 'utf8').replaceAll('\r', '')
  const families = [...text.matchAll(/^ {2}- packages\/([^/*]+)\/\*$/gm)].map(([, family = '']) => family)
  if (families.length === 0)
    throw new SetupError("pnpm-workspace.yaml names no folders of methods, like '- packages/eviction/*'.")
  return families
}

export const camelOf = (name) => name.replaceAll(/-([a-z0-9])/g, (_, first) => first.toUpperCase())

/** @returns {MethodFolder[]} by family, then by name */
export function methodFolders(root) {
  return familiesOf(root).flatMap((family) => {
    const folder = join(root, 'packages', family)
    if (!existsSync(folder)) return []
    const names = readdirSync(folder).filter((name) => existsSync(join(folder, name, 'package.json')))
    return names.sort().map((name) => {
      const { name: packageName } = JSON.parse(readFileSync(join(folder, name, 'package.json'), 'utf8'))
      const golden = existsSync(join(folder, name, 'golden', 'adapter.ts'))
      return { family, name, packageName, golden, factory: camelOf(name) }
    })
  })
}
