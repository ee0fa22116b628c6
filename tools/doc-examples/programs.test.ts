/** Blocks that go on with the one before are one program, with its lines where the document has them, and with what it prints. */
import { expect, it } from 'vitest'
import { parse } from './markdown.mjs'
import { programsOf } from './programs.mjs'

const DOCUMENT = `# A guide

\`\`\`ts
const a = 1
console.log(a)
\`\`\`

It prints

\`\`\`text output
1
\`\`\`

\`\`\`sh
npm test
\`\`\`

\`\`\`ts continued
console.log(a + 1)
\`\`\`

\`\`\`text output
2
\`\`\`

\`\`\`ts kvloom.config.ts
export default {}
\`\`\`
`

it('joins what goes on, and what it prints', () => {
  const [program, config, ...others] = programsOf(parse('a.md', DOCUMENT).blocks)
  expect(others).toEqual([])
  expect(program).toMatchObject({ line: 4, name: '', output: '1\n2\n' })
  expect(config).toMatchObject({ name: 'kvloom.config.ts', output: null })
  const lines = DOCUMENT.split('\n')
  for (const [i, line] of program?.code.split('\n').entries() ?? []) if (line !== '') expect(line).toBe(lines[3 + i])
})
