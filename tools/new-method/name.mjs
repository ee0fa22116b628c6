// What a method may be called, and its name in every spelling.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Script } from 'node:vm'
import { camelOf } from '../method-lists/folders.mjs'
import { KINDS } from './templates.mjs'

const NAME = /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/
/** npm's own limit, less the scope. */
const LONGEST_NAME = 200
const capital = (word) => word[0].toUpperCase() + word.slice(1)

export function describe(kind, name, title) {
  const words = name.split('-')
  const pascal = words.map(capital).join('')
  return { kind, name, pascal, camel: camelOf(name), title: title ?? capital(words.join(' ')) }
}

/** @returns {string | undefined} what is wrong with a name in the workspace at `root` */
export function problemOfName(name, root) {
  if (!NAME.test(name) || name.length > LONGEST_NAME)
    return `--name is '${name}'; it must be kebab-case and begin with a letter, like 'my-method'.`
  if (isReserved(camelOf(name)))
    return `--name is '${name}', a word of JavaScript that no export can be called by. Choose another name, like '${name}-kv'.`
  const taken = KINDS.map((kind) => join(root, 'packages', kind, name)).find((path) => existsSync(path))
  const folder = folderOfPackage(`@kvloom/${name}`, root) ?? taken
  if (folder) return `there is already a package @kvloom/${name} (${folder}). Choose another name.`
  const exporting = exporterOf(camelOf(name), root)
  if (exporting) return `@kvloom/${exporting} exports '${camelOf(name)}' already, and kvloom both. Choose another name.`
  return undefined
}

/** Titles stand in comments, strings and headings of the new files. */
export function problemOfTitle(title) {
  if (title === undefined || /^[^\p{Cc}'"`\\*$]+$/u.test(title)) return undefined
  return `--title is ${JSON.stringify(title)}; it must be one line without quotes, backslashes, stars and dollar signs.`
}

function isReserved(identifier) {
  try {
    return !new Script(`'use strict'; const ${identifier} = 0`)
  } catch {
    return true
  }
}

function folderOfPackage(packageName, root) {
  const packages = join(root, 'packages')
  const candidates = existsSync(packages) ? readdirSync(packages).map((name) => join(packages, name)) : []
  const nested = KINDS.map((kind) => join(packages, kind)).filter((path) => existsSync(path))
  candidates.push(...nested.flatMap((path) => readdirSync(path).map((name) => join(path, name))))
  return candidates.find((folder) => {
    const manifest = join(folder, 'package.json')
    return existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).name === packageName
  })
}

/** The package that kvloom re-exports whole and that has this name in its index already. */
function exporterOf(identifier, root) {
  return ['core', 'engine', 'eval', 'methods'].find((name) => {
    const index = join(root, 'packages', name, 'src', 'index.ts')
    if (!existsSync(index)) return false
    const lists = [...readFileSync(index, 'utf8').matchAll(/export (?:type )?\{([^}]*)\}/g)].flatMap((list) =>
      list[1].split(',').map((each) =>
        each
          .trim()
          .split(/\s+as\s+/)
          .at(-1),
      ),
    )
    return lists.includes(identifier)
  })
}
