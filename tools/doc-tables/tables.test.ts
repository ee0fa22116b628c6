/** The tables of the documentation say what methods declare, and every method's README has the place for its options. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { packageFolders, root } from '../setup/workspace.mjs'
import { optionTable } from './tables.mjs'

const LONGEST_README = 80

const methods = packageFolders()
  .map((folder) => folder.slice(root.length + 1).replaceAll('\\', '/'))
  .filter((folder) => /^packages\/[^/]+\/[^/]+$/.test(folder))

describe('the table of options', () => {
  it('has a line per option, with what a bar in it would break', () => {
    const options = {
      bits: { default: 2, allowed: 'a whole number from 1 to 8', doc: 'Bits of a code.' },
      side: { default: 'left', allowed: '"left" | "right"', doc: 'Where.' },
    }
    expect(optionTable({ options }).split('\n')).toEqual([
      '| option | default | allowed | effect |',
      '|---|---|---|---|',
      '| `bits` | `2` | a whole number from 1 to 8 | Bits of a code. |',
      '| `side` | `"left"` | "left" \\| "right" | Where. |',
    ])
    expect(optionTable({ options: {} })).toBe('No options.')
  })

  it('stands in the README of every method, which stays on a page', () => {
    expect(methods.length).toBeGreaterThan(20)
    for (const folder of methods) {
      const text = readFileSync(join(root, folder, 'README.md'), 'utf8').replaceAll('\r', '')
      expect(text, folder).toMatch(/^<!-- options: made by .+ -->\n[\s\S]+^<!-- options: end -->$/m)
      expect(text.trimEnd().split('\n').length, folder).toBeLessThanOrEqual(LONGEST_README)
    }
  })
})
