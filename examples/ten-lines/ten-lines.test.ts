/** The ten lines of the root README are this file; the check of commands runs them where the packed packages were installed. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { commands } from '../../tools/doc-examples/commands.mjs'
import { parse } from '../../tools/doc-examples/markdown.mjs'
import { root } from '../../tools/setup/workspace.mjs'

it('stands in the README as it is run', () => {
  const { blocks } = parse('README.md', readFileSync(join(root, 'README.md'), 'utf8').replaceAll('\r', ''))
  const shown = blocks.find(({ name }) => name === 'ten-lines.mjs')?.code
  expect(shown).toBe(readFileSync(join(root, 'examples', 'ten-lines', 'ten-lines.mjs'), 'utf8').replaceAll('\r', ''))
  expect(commands).toContainEqual(expect.objectContaining({ says: 'node ten-lines.mjs', installed: true }))
})
