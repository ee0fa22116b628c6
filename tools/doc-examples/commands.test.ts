/** Every command that the documentation names is in the table of how it is run. `npm run check:commands` runs them. */
import { describe, expect, it } from 'vitest'
import { commands, entriesOf, isInstall, unmatched } from './commands.mjs'
import { commandsOfDocuments } from './found.mjs'
import { parse } from './markdown.mjs'

const read = (text: string) => commandsOfDocuments([{ file: 'a.md', ...parse('a.md', text) }])

describe('commands of the documentation', () => {
  it('are all in the table, and the table has no others', () => {
    expect(unmatched(commandsOfDocuments())).toEqual([])
  })

  it('are run, or say why not', () => {
    for (const { says, runs, not } of commands) {
      expect(Boolean(says ?? runs)).toBe(true)
      if (not !== undefined) expect(not.length, says).toBeGreaterThan(10)
      // Short settings are added; the program and what it does stay.
      else if (says && runs) expect(runs.split(' ').slice(0, 2), says).toEqual(says.split(' ').slice(0, 2))
    }
  })

  it('are found in fences, in indented blocks and between backquotes', () => {
    const text = [
      'Run `npm run one` or `kvloom',
      'two`, never `kvloom` alone.',
      '```sh',
      '$ npm run three   # a remark',
      'npm run four \\',
      '  --long',
      'echo no',
      '```',
      '```ts',
      'npm run five',
      '```',
      '',
      '    kvloom six',
      '',
      'text',
    ].join('\n')
    expect([...read(text).keys()]).toEqual([
      'npm run three',
      'npm run four --long',
      'kvloom six',
      'npm run one',
      'kvloom two',
    ])
  })

  it('that nobody runs are named with their document', () => {
    const [problem, ...others] = unmatched(new Map([...commandsOfDocuments(), ['kvloom eval', ['a.md']]]))
    expect(problem).toBe('`kvloom eval` (a.md) is not in tools/doc-examples/commands.mjs; say there how it is run.')
    expect(others).toEqual([])
  })

  it('that only compare compositions need no entry: the README of a new method has one', () => {
    const shown = read('`npm start -- --compressor "my-method"`, `kvloom compare --compressor "a+b" --compressor "c"`')
    expect(unmatched(new Map([...commandsOfDocuments(), ...shown]))).toEqual([])
    const generated = entriesOf(shown).filter(({ says }) => says && shown.has(says))
    expect(generated.map(({ runs }) => runs)).toEqual([
      expect.stringMatching(/^npm start -- --compressor "my-method" --model tiny --tokens \d+/),
      expect.stringMatching(/^kvloom compare --compressor "a\+b" --compressor "c" --model tiny --tokens \d+/),
    ])
  })

  it('that install packages are told from others', () => {
    expect(isInstall('npm install @kvloom/core @kvloom/kivi')).toBe(true)
    expect(isInstall('npm install kvloom')).toBe(true)
    expect(isInstall('npm install left-pad')).toBe(false)
  })
})
