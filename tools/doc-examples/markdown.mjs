// Reads the documentation: its code blocks and what it says in `code`.
import { readFileSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import { filesUnder, root } from '../setup/workspace.mjs'

/**
 * @typedef {object} Block
 * @property {string} file from the root, with slashes
 * @property {number} line of its first line
 * @property {string} language of a fence; '' for none and for indented blocks
 * @property {string} name what a fence says after the language, such as `kvloom.config.ts`
 * @property {string} code
 *
 * @typedef {object} Document
 * @property {string} file
 * @property {Block[]} blocks
 * @property {string[]} inline what stands between backquotes outside of blocks
 */

/** Not written by hand, or not about commands: built pages, changelogs, notes on files. */
const SKIPPED = /(?:^|\/)(?:node_modules|dist|\.turbo|\.vitepress|fixtures|reference|kvloom-report)\/|CHANGELOG\.md$/

/** @returns {Document[]} README.md, CONTRIBUTING.md, .changeset/README.md, docs/ and the README of every package and tool */
export function readDocuments() {
  const folders = ['docs', 'packages', 'apps', 'tools', 'examples'].flatMap((name) => filesUnder(join(root, name)))
  return [join(root, 'README.md'), join(root, 'CONTRIBUTING.md'), join(root, '.changeset', 'README.md'), ...folders]
    .map((path) => relative(root, path).split(sep).join('/'))
    .filter((file) => file.endsWith('.md') && !SKIPPED.test(file))
    .map((file) => ({ file, ...parse(file, readFileSync(join(root, file), 'utf8').replaceAll('\r', '')) }))
}

/** @returns {{ blocks: Block[], inline: string[] }} */
export function parse(file, text) {
  const lines = text.split('\n')
  const blocks = []
  const prose = []
  for (let i = 0; i < lines.length; i++) {
    const fence = /^(\s*)```(\w*) *(.*)$/.exec(lines[i])
    if (!fence && !isIndented(lines, i)) {
      prose.push(lines[i])
      continue
    }
    const begin = fence ? i + 1 : i
    let end = begin
    if (fence) while (end < lines.length && lines[end].trim() !== '```') end += 1
    else while (/^(?: {4}|$)/.test(lines[end] ?? 'x')) end += 1
    const code = lines.slice(begin, end).map((line) => line.replace(fence ? fence[1] : /^ {4}/, ''))
    const [language, name] = fence ? [fence[2], fence[3].trim()] : ['', '']
    blocks.push({ file, line: begin + 1, language, name, code: `${code.join('\n').trimEnd()}\n` })
    i = fence ? end : end - 1
  }
  const inline = [...prose.join('\n').matchAll(/`([^`]+)`/g)].map(([, code]) => code.replaceAll(/\s+/g, ' '))
  return { blocks, inline }
}

/** An indented block begins after an empty line, and is no list. */
const isIndented = (lines, i) => /^ {4}\S/.test(lines[i]) && (i === 0 || lines[i - 1].trim() === '')
