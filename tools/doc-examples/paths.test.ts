/** Files and pages that the documentation points to are in the repository. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { root } from '../setup/workspace.mjs'
import { readDocuments } from './markdown.mjs'

/** What looks like a path of this repository: folders, then a name with an ending or one of the folders at its top. */
const PATH =
  /^(?:(?:packages|docs|tools|apps|examples|src|fixtures|golden|results|text|model|grids)\/[\w./-]+|[\w./-]+\/[\w-]+\.(?:ts|mjs|js|json|md|txt|py|safetensors))$/
/** Written by a command, so not there before; or of another project. */
const MADE: readonly RegExp[] = [/^narrow\//, /^kvloom-report\//, /^run\//, /^package\/lib\//, /^text\/sample\.txt$/]
const documents = readDocuments().map(({ file, inline }) => {
  const text = readFileSync(join(root, file), 'utf8').replaceAll('\r', '')
  const prose = text.replaceAll(/^```.*?^```/gms, '')
  const links = [...prose.matchAll(/\]\((?!https?:|#|mailto:)([^)\s#]+)/g)].map(([, link]) => link ?? '')
  return { file, links, paths: inline.filter((code) => PATH.test(code)) }
})

/** From the document's folder, from its package's `src`, or from the root; pages of the site need no ending. */
function isThere(file: string, path: string) {
  const folder = join(root, dirname(file))
  const bases = [folder, join(folder, 'src'), root]
  return bases.some((base) => ['', '.md', '/index.md'].some((end) => existsSync(join(base, path) + end)))
}

describe('what the documentation points to', () => {
  it.each(documents.filter(({ links, paths }) => links.length + paths.length > 0))(
    '$file',
    ({ file, links, paths }) => {
      const wanted = [...links, ...paths.filter((path) => !MADE.some((made) => made.test(path)))]
      expect(wanted.filter((path) => !isThere(file, path))).toEqual([])
    },
  )
})
