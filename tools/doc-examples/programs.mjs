// The programs of a document: its TypeScript blocks, joined where one goes on with the one before.

const TYPESCRIPT = new Set(['ts', 'typescript', 'mts', 'tsx'])
const CONTINUED = 'continued'
const OUTPUT = 'output'

/**
 * @typedef {import('./markdown.mjs').Block & { output: string | null }} Program a block, and those that are called `continued` behind it;
 *   `output` is what the `text` blocks that are called `output` say it prints, null where there is none
 *
 * @param {readonly import('./markdown.mjs').Block[]} blocks of one document
 * @returns {Program[]}
 */
export function programsOf(blocks) {
  const programs = []
  for (const block of blocks) {
    const last = programs.at(-1)
    if (block.language === 'text' && block.name === OUTPUT) last.output = (last.output ?? '') + block.code
    else if (!TYPESCRIPT.has(block.language)) continue
    else if (block.name === CONTINUED) last.code = joined(last, block)
    else programs.push({ ...block, output: null })
  }
  return programs
}

/** With empty lines between, so that a line of the program has the number that it has in the document. */
function joined(program, { line, code }) {
  const end = program.line + program.code.split('\n').length - 1
  return program.code + '\n'.repeat(line - end) + code
}
