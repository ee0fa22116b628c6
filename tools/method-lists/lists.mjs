// The text of every file that lists the methods, from their folders.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { methodFolders } from './folders.mjs'

const FIRST_LINE = '// Made from the folders of the methods by `npm run method-lists`. Do not edit.\n'
const HOME = 'packages/methods'

/** @returns {Record<string, string>} text by path from the root */
export function methodLists(root) {
  const methods = methodFolders(root)
  // Imports stand sorted, as the linter would have them; the lists themselves go by family.
  const sorted = methods.toSorted((a, b) => (a.packageName < b.packageName ? -1 : 1))
  return {
    [`${HOME}/src/generated/methods.ts`]: factories(methods, sorted),
    [`${HOME}/src/generated/packages.ts`]: packages(sorted),
    [`${HOME}/src/generated/golden.ts`]: adapters(sorted.filter(({ golden }) => golden)),
    [`${HOME}/package.json`]: manifest(root, sorted),
  }
}

/** @returns {string[]} paths from the root of the lists that are not as their folders say */
export function staleLists(root) {
  return Object.entries(methodLists(root))
    .filter(([path, text]) => textOf(join(root, path)) !== text)
    .map(([path]) => path)
}

const textOf = (path) => (existsSync(path) ? readFileSync(path, 'utf8').replaceAll('\r', '') : undefined)
const lines = (of, methods) => methods.map((method) => `${of(method)}\n`).join('')

function factories(methods, sorted) {
  return `${FIRST_LINE}${lines(({ factory, packageName }) => `import { ${factory} } from '${packageName}'`, sorted)}import type { Method } from '../method'

export {
${lines(({ factory }) => `  ${factory},`, sorted)}}

/** Every method: families in the order of the workspace, in each by name. */
export const methods: readonly Method[] = [
${lines(({ factory }) => `  ${factory},`, methods)}]
`
}

function adapters(sorted) {
  return `${FIRST_LINE}${lines(({ factory, packageName }) => `import { adapter as ${factory} } from '${packageName}/golden'`, sorted)}import type { GoldenAdapter } from '@kvloom/golden'

/** The adapter of every method that has golden data. */
export const adapters: readonly GoldenAdapter[] = [
${lines(({ factory }) => `  ${factory},`, sorted)}]
`
}

function packages(sorted) {
  return `${FIRST_LINE}
/** The package of every method, by its name: a function that imports all that it exports. */
export const methodPackages: Readonly<Record<string, () => Promise<Readonly<Record<string, unknown>>>>> = {
${lines(({ packageName }) => `  '${packageName}': () => import('${packageName}'),`, sorted)}}
`
}

const DEPENDENCIES = /^ {2}"dependencies": \{[^}]*\}/m

/** The manifest, its dependencies being what it names beside methods and every method. */
function manifest(root, sorted) {
  const text = readFileSync(join(root, HOME, 'package.json'), 'utf8').replaceAll('\r', '')
  const isMethod = (name) =>
    name.startsWith('@kvloom/') && !existsSync(join(root, 'packages', name.slice('@kvloom/'.length)))
  const others = Object.entries(JSON.parse(text).dependencies ?? {}).filter(([name]) => !isMethod(name))
  const all = [...others, ...sorted.map(({ packageName }) => [packageName, 'workspace:^'])]
  const entries = all.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, range]) => `    "${name}": "${range}"`)
  return text.replace(DEPENDENCIES, () => `  "dependencies": {\n${entries.join(',\n')}\n  }`)
}
